/*
 * faults.c: stands between the engine and its steps, and breaks them
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Loaded with LD_PRELOAD into a process that runs the driver. The file that
 * FERRY_FAULT_FILE names holds lines of PLAN/STEP/WHEN/WHAT: when a step of that
 * name is run or undone something happens. WHEN is
 *
 *   before, after      the step acts
 *   during-N           it has sent its Nth command to QEMU, which has answered,
 *                      and the answer is not read yet
 *   undo-before, undo-after, undo-during-N
 *                      the same when the step is undone
 *   journal            what the step is going to do is written to the journal
 *   removal, undo-removal
 *                      it was the last one, and the journal is about to be removed
 *   save, undo-save    the step, or its undo, writes or removes the file of a
 *                      configuration or of a checkpoint
 *   image, undo-image  it works on a file in the folder FERRY_FAULT_IMAGES
 *   yield-N            it has let go of the domain's job for the Nth time, and is about
 *                      to take it again
 *
 * and WHAT
 *
 *   error        the step fails; during: the command does
 *   unknown      the step fails and does not know what it did
 *   disconnect   the connection to QEMU breaks
 *   kill-qemu    QEMU gets SIGKILL, if there is one
 *   kill-driver  this process gets SIGKILL
 *   power-loss   both do
 *   enospc       the journal cannot be written, from here on
 *   eio          nor can it this once: the disk does not take it
 *   eio-folder   the disk takes it, but not its name
 *   drop         this thread of root's must not override file permissions any more, like
 *                root on some network file systems
 *   run COMMAND  the shell runs a command, and the step goes on: what somebody else
 *                could do at this moment
 *
 * or, for save, what happens once: the file cannot be opened or removed
 * (unsaved-erofs), written (unsaved-enospc) or renamed (unsaved-eio), or its
 * folder cannot be synced (unsaved-folder). For image: nothing can be created, renamed or
 * removed there (image-erofs), written (image-enospc) or synced (image-eio), or the first of
 * these calls takes longer than the storage may (image-hang). For yield and during: nothing
 * goes on until this file says something else (meet).
 *
 * So every step of every plan can be broken in every way, without a line in
 * the code that is tested. A line any/journal/WHAT makes the next writing of any
 * journal fail, a line any/step/WHAT happens after the next step that is run or undone. A
 * line any/bind/run COMMAND is what somebody else does when a unix socket has just got its
 * name.
 *
 * FERRY_FAULT_FILE.log gets a line for each fault that happened, and, if the file
 * says "record", one for each step: how many commands it sent; and before that "synced"
 * when its journal was, "saves" when it saved such a file, "images" and the faults that can
 * happen when it worked on images, and "yields N"; and after it "removes STEP" when there is
 * no journal any more. FERRY_FAULT_TRACE names
 * a file that gets a line for each name that was put on the disk, and for each folder
 * that was synced. In
 * FERRY_FAULT_FILE.durable is what a host that loses its power has of the journals
 * when it is back: what was written but not synced is not there. In
 * FERRY_FAULT_FILE.lost is what it may have in place of the other files that steps made,
 * renamed or removed and whose folders were not synced, each under its escaped path; in
 * FERRY_FAULT_FILE.fresh are the paths at which it may have nothing.
 */

#include <config.h>

#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "faults.h"
#include "virerror.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

#define FAULT_FD_MAX 1024

/* What QEMU is asked instead of the command that is to fail. */
#define FAULT_COMMAND "{\"execute\":\"blockdev-del\",\"arguments\":{\"node-name\":\"injected failure\"},%s"

/* Long enough for any command that is answered at all. */
#define FAULT_ANSWER_MS 200

/* How long a step lets others go first, and how often it looks whether they have. */
#define FAULT_MEET_US (30 * G_USEC_PER_SEC)
#define FAULT_MEET_POLL_US 5000

faultStep current;


void
faultLog(const char *format,
         ...)
{
    g_autofree char *path = g_strdup_printf("%s.log", g_getenv("FERRY_FAULT_FILE"));
    g_autofree char *line = NULL;
    va_list ap;
    FILE *f;

    va_start(ap, format);
    line = g_strdup_vprintf(format, ap);
    va_end(ap);

    if (!(f = fopen(path, "a")))
        abort();
    fprintf(f, "%s\n", line);
    fclose(f);
}


static bool
faultIsMonitor(int fd)
{
    struct sockaddr_un sa = { 0 };
    socklen_t len = sizeof(sa);

    return getpeername(fd, (struct sockaddr *) &sa, &len) == 0 &&
           sa.sun_family == AF_UNIX &&
           g_str_has_suffix(sa.sun_path, "/monitor.sock");
}


/* The monitor's descriptor is private to it, but its peer has a name. */
static void
faultDisconnect(void)
{
    int fd;

    for (fd = 3; fd < FAULT_FD_MAX; fd++) {
        if (faultIsMonitor(fd))
            shutdown(fd, SHUT_RDWR);
    }
}


/* To kill process 0 would be to kill ourselves, and the test. */
static void
faultKill(pid_t qemu)
{
    if (qemu > 0)
        kill(qemu, SIGKILL);
}


void
faultPowerLoss(pid_t qemu)
{
    faultKill(qemu);
    kill(getpid(), SIGKILL);
}


static void
faultDrop(void)
{
    struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
    const unsigned int dropped = 1 << CAP_DAC_OVERRIDE | 1 << CAP_DAC_READ_SEARCH | 1 << CAP_FOWNER;

    if (syscall(SYS_capget, &header, data) < 0)
        abort();

    data[0].effective &= ~dropped;
    data[0].permitted &= ~dropped;
    if (syscall(SYS_capset, &header, data) < 0)
        abort();
}


/* Without this library, which is for the driver. */
static void
faultRun(const char *what)
{
    g_autofree char *command = g_strdup_printf("unset LD_PRELOAD; %s", what + strlen("run "));

    if (system(command) != 0)
        abort();
}


static int
faultHappen(ferryOp *op,
            const ferryStep *step,
            const char *what)
{
    faultLog("fault %s", what);

    if (STREQ(what, "error") || STREQ(what, "unknown")) {
        virReportError(VIR_ERR_OPERATION_FAILED, "injected failure of step '%s'", step->name);
        return STREQ(what, "error") ? FERRY_STEP_FAILED : FERRY_STEP_UNKNOWN;
    }

    if (STREQ(what, "drop"))
        faultDrop();
    else if (STRPREFIX(what, "run "))
        faultRun(what);
    else if (STREQ(what, "disconnect"))
        faultDisconnect();
    else if (STREQ(what, "kill-qemu"))
        faultKill(op->vm->pid);
    else if (STREQ(what, "kill-driver"))
        kill(getpid(), SIGKILL);
    else if (STREQ(what, "power-loss"))
        faultPowerLoss(op->vm->pid);
    else
        abort();

    /* the step goes on, and finds out by itself */
    return 0;
}


char **
faultRead(void)
{
    const char *path = g_getenv("FERRY_FAULT_FILE");
    g_autofree char *text = NULL;

    if (!path || !g_file_get_contents(path, &text, NULL, NULL))
        return g_new0(char *, 1);

    return g_strsplit(g_strstrip(text), "\n", 0);
}


/* The rest of the first line that begins so, or NULL. */
static char *
faultLookup(const char *prefix)
{
    g_auto(GStrv) faults = faultRead();
    size_t i;

    for (i = 0; faults[i]; i++) {
        if (g_str_has_prefix(faults[i], prefix))
            return g_strdup(faults[i] + strlen(prefix));
    }

    return NULL;
}


/* What is to happen to @step, or NULL. */
char *
faultFind(const ferryPlan *plan,
          const ferryStep *step,
          const char *when)
{
    g_autofree char *prefix = g_strdup_printf("%s/%s/%s/", plan->name, step->name, when);

    return faultLookup(prefix);
}


/* What is to happen when @step was run or undone, or NULL. */
static char *
faultFindAfter(const ferryPlan *plan,
               const ferryStep *step,
               const char *when)
{
    char *what = faultLookup("any/step/");

    return what ? what : faultFind(plan, step, when);
}


/* Does the test want to know what happens without a fault? */
bool
faultIsRecorded(void)
{
    g_auto(GStrv) faults = faultRead();

    return STREQ_NULLABLE(faults[0], "record");
}


/* Is there something to know about the commands that @step sends? */
static bool
faultIsWatched(const ferryPlan *plan,
               const ferryStep *step,
               const char *when)
{
    g_autofree char *prefix = g_strdup_printf("%s/%s/%s-", plan->name, step->name, when);
    g_autofree char *what = faultLookup(prefix);

    return what || faultIsRecorded();
}


/* Has @what happened before? A step may be tried again by itself. */
static bool
faultHappened(const char *what)
{
    g_autofree char *path = g_strdup_printf("%s.log", g_getenv("FERRY_FAULT_FILE"));
    g_autofree char *line = g_strdup_printf("fault %s", what);
    g_autofree char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) && strstr(text, line);
}


static void
faultEnter(ferryOp *op,
           const ferryPlan *plan,
           const ferryStep *step,
           bool undo)
{
    current.op = op;
    current.plan = plan;
    current.step = step;
    current.qemu = op->vm->pid;
    current.undo = undo;
    current.commands = 0;
    current.yields = 0;
    current.thread = virThreadSelfID();
    current.saved = false;
    if (!current.images)
        current.images = g_string_new(NULL);
    g_string_truncate(current.images, 0);
    g_free(current.image);
    current.image = faultFind(plan, step, undo ? "undo-image" : "image");
    /* the same undo may be tried again when the storage answers */
    if (STREQ_NULLABLE(current.image, "image-hang") && faultHappened(current.image))
        g_clear_pointer(&current.image, g_free);
    g_free(current.save);
    current.save = faultFind(plan, step, undo ? "undo-save" : "save");
    if (current.save && faultHappened(current.save))
        g_clear_pointer(&current.save, g_free);
    current.watched = faultIsWatched(plan, step, undo ? "undo-during" : "during") ||
                      faultIsWatched(plan, step, "yield");
}


static void
faultLeave(void)
{
    if (current.saved && faultIsRecorded())
        faultLog("saves");
    if (current.images->len && faultIsRecorded())
        faultLog("images%s", current.images->str);
    if (current.yields && current.watched)
        faultLog("yields %d", current.yields);
    if (current.watched)
        faultLog("%s/%s/%s %d", current.plan->name, current.step->name,
                 current.undo ? "undo" : "run", current.commands);

    current.watched = false;
    current.op = NULL;
}


int
ferryStepRun(ferryOp *op,
             const ferryPlan *plan,
             const ferryStep *step)
{
    g_autofree char *before = faultFind(plan, step, "before");
    g_autofree char *after = faultFindAfter(plan, step, "after");
    int rc;

    if (before && (rc = faultHappen(op, step, before)) < 0)
        return rc;

    faultEnter(op, plan, step, false);
    rc = step->run(op);
    faultLeave();

    if (rc < 0)
        return rc;

    return after ? faultHappen(op, step, after) : 0;
}


void
ferryStepUndo(ferryOp *op,
              const ferryPlan *plan,
              const ferryStep *step)
{
    g_autofree char *before = faultFind(plan, step, "undo-before");
    g_autofree char *after = faultFindAfter(plan, step, "undo-after");

    if (before)
        ignore_value(faultHappen(op, step, before));

    faultEnter(op, plan, step, true);
    if (step->undo)
        step->undo(op);
    faultLeave();

    if (after)
        ignore_value(faultHappen(op, step, after));
}


/* The operation is over: its journal is about to be removed. */
void
faultRemoval(void)
{
    g_autofree char *what = NULL;

    if (!current.step)
        return;

    if ((what = faultFind(current.plan, current.step, current.undo ? "undo-removal" : "removal")))
        faultLog("fault %s", what);
    else if (faultIsRecorded())
        faultLog("removes %s/%s/%s", current.plan->name, current.step->name,
                 current.undo ? "undo" : "run");

    if (STREQ_NULLABLE(what, "power-loss"))
        faultPowerLoss(current.qemu);
    else if (what)
        kill(getpid(), SIGKILL);
}


int
bind(int fd,
     const struct sockaddr *address,
     socklen_t len)
{
    FAULT_REAL(bind);
    int rc = real(fd, address, len);
    g_autofree char *what = address->sa_family == AF_UNIX ? faultLookup("any/bind/") : NULL;

    if (rc == 0 && what)
        faultRun(what);

    return rc;
}


/* What others do while a step has no job */

/* Waits until the file of faults has another content. */
static void
faultMeet(void)
{
    gint64 end = g_get_monotonic_time() + FAULT_MEET_US;
    const char *path = g_getenv("FERRY_FAULT_FILE");
    g_autofree char *before = NULL;
    bool same = g_file_get_contents(path, &before, NULL, NULL);

    faultLog("fault meet");
    while (same && g_get_monotonic_time() < end) {
        g_autofree char *now = NULL;

        g_usleep(FAULT_MEET_POLL_US);
        same = g_file_get_contents(path, &now, NULL, NULL) && STREQ(now, before);
    }
}


int
virDomainObjBeginJob(virDomainObj *vm,
                     virDomainJob job)
{
    FAULT_REAL(virDomainObjBeginJob);

    if (current.op && current.op->vm == vm && current.thread == virThreadSelfID()) {
        g_autofree char *when = g_strdup_printf("%syield-%d", current.undo ? "undo-" : "", ++current.yields);
        g_autofree char *what = faultFind(current.plan, current.step, when);

        if (STREQ_NULLABLE(what, "meet")) {
            /* as in the wait that has ended just now */
            virObjectUnlock(vm);
            faultMeet();
            virObjectLock(vm);
        }
    }

    return real(vm, job);
}


/* Commands: libvirt's monitor sends one with each write */

/* What is to happen to the command that is about to be sent to @fd, or NULL. */
char *
faultCommand(int fd)
{
    g_autofree char *when = NULL;

    if (!current.watched || !faultIsMonitor(fd))
        return NULL;

    when = g_strdup_printf("%sduring-%d", current.undo ? "undo-" : "", ++current.commands);
    return faultFind(current.plan, current.step, when);
}


/* Another command in place of that in @buf, with its number: QEMU refuses it. */
char *
faultRefused(const char *buf,
             size_t len)
{
    g_autofree char *text = g_strndup(buf, len);
    const char *id = g_strrstr(text, "\"id\":\"libvirt-");

    return g_strdup_printf(FAULT_COMMAND, id);
}


/* QEMU has done what it was told, and says so: nobody hears it. */
void
faultAnswered(int fd,
              const char *what)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };
    char buf[4096];

    if (STREQ(what, "meet")) {
        faultMeet();
        return;
    }

    faultLog("fault %s", what);
    ignore_value(poll(&p, 1, FAULT_ANSWER_MS));

    if (STREQ(what, "kill-driver"))
        kill(getpid(), SIGKILL);
    else if (STREQ(what, "power-loss"))
        faultPowerLoss(current.op->vm->pid);
    else if (STREQ(what, "kill-qemu"))
        faultKill(current.op->vm->pid);
    else if (STRNEQ(what, "disconnect"))
        abort();

    while (recv(fd, buf, sizeof(buf), MSG_DONTWAIT) > 0)
        ;
    shutdown(fd, SHUT_RDWR);
}
