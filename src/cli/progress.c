/*
 * progress.c: the command "ferry": how far an operation is, as a running daemon says
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Asked through libvirt's public API, without rights to change anything. A daemon that does not answer
 * keeps nobody waiting: a thread of its own asks, and after some seconds the rest is shown.
 */

#include <string.h>

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#include "cli/progress.h"

#define FERRY_CLI_ANSWER_SECONDS 5

typedef struct {
    int refs;    /* atomic: the asking thread may outlast the other */
    GMutex lock; /* of @answered and @all */
    GCond cond;
    bool answered;
    char *uri;
    GPtrArray *ops;        /* does not change meanwhile */
    ferryCliProgress *all; /* one for each of @ops */
} ferryCliQuestion;


static void
ferryCliQuestionUnref(ferryCliQuestion *question)
{
    if (!g_atomic_int_dec_and_test(&question->refs))
        return;

    g_mutex_clear(&question->lock);
    g_cond_clear(&question->cond);
    g_ptr_array_unref(question->ops);
    g_free(question->uri);
    g_free(question->all);
    g_free(question);
}


static void
ferryCliIgnoreError(void *opaque G_GNUC_UNUSED,
                    virErrorPtr err G_GNUC_UNUSED)
{
}


static void
ferryCliAskCopy(virDomainPtr dom,
                const ferryCliOp *op,
                ferryCliProgress *progress)
{
    virDomainBlockJobInfo info;

    if (op->disks->len == 0 ||
        virDomainGetBlockJobInfo(dom, g_ptr_array_index(op->disks, 0), &info,
                                 VIR_DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES) <= 0)
        return;

    progress->done = info.cur;
    progress->total = info.end;
    progress->limit = info.bandwidth;
}


/* A backup, or a migration. */
static void
ferryCliAskJob(virDomainPtr dom,
               ferryCliProgress *progress)
{
    virTypedParameterPtr params = NULL;
    int nparams = 0;
    int type;

    if (virDomainGetJobStats(dom, &type, &params, &nparams, /* flags= */ 0) < 0)
        return;

    virTypedParamsGetULLong(params, nparams, VIR_DOMAIN_JOB_DISK_PROCESSED, &progress->done);
    virTypedParamsGetULLong(params, nparams, VIR_DOMAIN_JOB_DISK_TOTAL, &progress->total);
    virTypedParamsFree(params, nparams);
}


static void
ferryCliAsk(virConnectPtr conn,
            const ferryCliOp *op,
            ferryCliProgress *progress)
{
    virDomainPtr dom = op->uuid ? virDomainLookupByUUIDString(conn, op->uuid) : NULL;
    gint64 since = op->since > 0 ? g_get_real_time() / G_USEC_PER_SEC - op->since : 0;

    if (!dom)
        return;

    if (strcmp(op->type, "copy") == 0)
        ferryCliAskCopy(dom, op, progress);
    else if (strcmp(op->type, "backup") == 0 || strcmp(op->type, "migration") == 0)
        ferryCliAskJob(dom, progress);

    if (since > 0 && (progress->rate = progress->done / since) > 0 && progress->total >= progress->done)
        progress->left = (progress->total - progress->done) / progress->rate;

    virDomainFree(dom);
}


static void *
ferryCliAskThread(void *opaque)
{
    ferryCliQuestion *question = opaque;
    virConnectPtr conn = virConnectOpenReadOnly(question->uri);
    size_t i;

    for (i = 0; conn && i < question->ops->len; i++) {
        const ferryCliOp *op = g_ptr_array_index(question->ops, i);
        ferryCliProgress progress = { .left = -1 };

        /* another job may run on the disk of one that does not */
        if (op->runs)
            ferryCliAsk(conn, op, &progress);

        g_mutex_lock(&question->lock);
        question->all[i] = progress;
        g_mutex_unlock(&question->lock);
    }

    if (conn)
        virConnectClose(conn);

    g_mutex_lock(&question->lock);
    question->answered = true;
    g_cond_signal(&question->cond);
    g_mutex_unlock(&question->lock);

    ferryCliQuestionUnref(question);
    return NULL;
}


/**
 * ferryCliProgressOfAll:
 * @uri: a daemon that runs; NULL: nobody is asked
 * @ops: of ferryCliOp *
 *
 * @answered: set to false if the daemon did not answer all in time: its thread may still be inside libvirt
 *
 * Returns how far each of @ops that runs is, as far as that can be told within some seconds in all. The
 * caller frees the array.
 */
ferryCliProgress *
ferryCliProgressOfAll(const char *uri,
                      GPtrArray *ops,
                      bool *answered)
{
    gint64 deadline = g_get_monotonic_time() + FERRY_CLI_ANSWER_SECONDS * G_TIME_SPAN_SECOND;
    ferryCliProgress *all = g_new0(ferryCliProgress, ops->len + 1);
    ferryCliQuestion *question;
    size_t i;

    for (i = 0; i < ops->len; i++)
        all[i].left = -1;

    *answered = true;
    if (!uri || ops->len == 0)
        return all;

    virSetErrorFunc(NULL, ferryCliIgnoreError);

    question = g_new0(ferryCliQuestion, 1);
    question->refs = 2;
    g_mutex_init(&question->lock);
    g_cond_init(&question->cond);
    question->uri = g_strdup(uri);
    question->ops = g_ptr_array_ref(ops);
    question->all = g_memdup2(all, sizeof(*all) * ops->len);

    g_thread_unref(g_thread_new("ask", ferryCliAskThread, question));

    g_mutex_lock(&question->lock);
    while (!question->answered && g_cond_wait_until(&question->cond, &question->lock, deadline))
        ;
    memcpy(all, question->all, sizeof(*all) * ops->len);
    *answered = question->answered;
    g_mutex_unlock(&question->lock);

    ferryCliQuestionUnref(question);
    return all;
}
