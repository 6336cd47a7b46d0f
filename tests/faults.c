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
 * happen when it worked on images, and "yields N". FERRY_FAULT_TRACE names
 * a file that gets a line for each name that was put on the disk, and for each folder
 * that was synced. In
 * FERRY_FAULT_FILE.durable is what a host that loses its power has of the journals
 * when it is back: what was written but not synced is not there. In
 * FERRY_FAULT_FILE.lost is what it may have in place of the other files that steps made,
 * renamed or removed and whose folders were not synced, each under its escaped path; in
 * FERRY_FAULT_FILE.fresh are the paths at which it may have nothing.
 */

#include <config.h>

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "engine/op.h"
#include "virerror.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

#define FAULT_FD_MAX 1024

/* What QEMU is asked instead of the command that is to fail. */
#define FAULT_COMMAND "{\"execute\":\"blockdev-del\",\"arguments\":{\"node-name\":\"injected failure\"},%s"

/* Long enough for any command that is answered at all. */
#define FAULT_ANSWER_MS 200

/* Longer than FERRY_BOUNDED_STORAGE_MS. */
#define FAULT_HANG_US (7 * G_USEC_PER_SEC)

/* How long a step lets others go first, and how often it looks whether they have. */
#define FAULT_MEET_US (30 * G_USEC_PER_SEC)
#define FAULT_MEET_POLL_US 5000

/* The step that runs, for the thread that talks to QEMU; and the one before it,
 * for the journal. There is one operation at a time in a test. */
static struct {
    ferryOp *op;
    const ferryPlan *plan;
    const ferryStep *step;
    bool undo;
    bool watched;
    bool saved;
    char *save;
    GString *images; /* which faults for an image can happen to it */
    char *image;
    unsigned long long thread;
    int yields;
    int commands;
} current;

/* The journal that is being written. */
static struct {
    int fd;
    char *fault;
} journal = { .fd = -1 };


#define FAULT_REAL(name) \
    static typeof(name) *real; \
    if (!real) \
        real = (typeof(name) *) dlsym(RTLD_NEXT, #name)


static void G_GNUC_PRINTF(1, 2)
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


static void
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


static char **
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
static char *
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
static bool
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
static char *
faultCommand(int fd)
{
    g_autofree char *when = NULL;

    if (!current.watched || !faultIsMonitor(fd))
        return NULL;

    when = g_strdup_printf("%sduring-%d", current.undo ? "undo-" : "", ++current.commands);
    return faultFind(current.plan, current.step, when);
}


/* Another command in place of that in @buf, with its number: QEMU refuses it. */
static char *
faultRefused(const char *buf,
             size_t len)
{
    g_autofree char *text = g_strndup(buf, len);
    const char *id = g_strrstr(text, "\"id\":\"libvirt-");

    return g_strdup_printf(FAULT_COMMAND, id);
}


/* QEMU has done what it was told, and says so: nobody hears it. */
static void
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


/* The journal */

static bool
faultIsJournal(const char *path,
               const char *suffix)
{
    g_autofree char *dir = path ? g_path_get_dirname(path) : NULL;

    return dir && g_str_has_suffix(dir, "/ferry") && g_str_has_suffix(path, suffix);
}


static char *
faultPath(int fd)
{
    g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", fd);

    return g_file_read_link(link, NULL);
}


/* Files that are saved by steps, and what is done to names */

static bool
faultIsSaveFolder(const char *dir)
{
    g_autofree char *parent = dir ? g_path_get_dirname(dir) : NULL;

    return dir && (g_str_has_suffix(dir, "/etc/qemu") || g_str_has_suffix(dir, "/etc/libvirt/qemu") ||
                   g_str_has_suffix(parent, "/qemu/checkpoint"));
}


/* A file of a configuration or of a checkpoint is about to be changed by the call that
 * @what stands for. Does the call fail? */
static bool
faultSave(const char *path,
          bool folder,
          const char *what)
{
    g_autofree char *dir = path && !folder ? g_path_get_dirname(path) : g_strdup(path);

    if (!current.op || !faultIsSaveFolder(dir))
        return false;

    current.saved = true;
    if (STRNEQ_NULLABLE(current.save, what))
        return false;

    faultLog("fault %s", what);
    g_clear_pointer(&current.save, g_free);
    return true;
}


/* Is @path in the folder of images, and not one of the files below? */
static bool
faultIsImage(const char *path)
{
    const char *images = g_getenv("FERRY_FAULT_IMAGES");
    g_autofree char *dir = path && images ? g_path_get_dirname(path) : NULL;
    g_autofree char *ours = g_strdup_printf("%s.", g_getenv("FERRY_FAULT_FILE"));

    return dir && STREQ(dir, images) && !STRPREFIX(path, ours);
}


/* A file in the folder of images is about to be worked on by a call that @what would make
 * fail. Does it fail? */
static bool
faultImage(const char *path,
           const char *what)
{
    if (!current.op || (!faultIsImage(path) && STRNEQ_NULLABLE(path, g_getenv("FERRY_FAULT_IMAGES"))))
        return false;

    if (!strstr(current.images->str, what))
        g_string_append_printf(current.images, " %s", what);
    if (STREQ_NULLABLE(current.image, "image-hang")) {
        g_clear_pointer(&current.image, g_free);
        faultLog("fault image-hang");
        g_usleep(FAULT_HANG_US);
    }
    if (STRNEQ_NULLABLE(current.image, what))
        return false;

    faultLog("fault %s", what);
    return true;
}


static bool
faultImageOpen(int fd,
               const char *what)
{
    g_autofree char *path = current.op ? faultPath(fd) : NULL;

    return path && faultImage(path, what);
}


static void
faultTrace(const char *what,
           const char *path)
{
    const char *trace = g_getenv("FERRY_FAULT_TRACE");
    FILE *f;

    if (!trace || !path || !(f = fopen(trace, "a")))
        return;

    fprintf(f, "%s %s\n", what, path);
    fclose(f);
}


/* Notes for a power loss: what was there before (lost), or that there was nothing (fresh). */
static char *
faultLostPath(const char *kind,
              const char *path)
{
    g_autofree char *dir = g_strdup_printf("%s.%s", g_getenv("FERRY_FAULT_FILE"), kind);
    g_autofree char *name = path ? g_uri_escape_string(path, NULL, FALSE) : g_strdup("");

    if (g_mkdir_with_parents(dir, 0700) < 0)
        abort();

    return g_build_filename(dir, name, NULL);
}


/* The name @path is about to change, in a step: a power loss may bring back the file that is
 * there now, until the folder is synced. */
static void
faultLose(const char *path)
{
    g_autofree char *folder = g_path_get_dirname(path);
    g_autofree char *lost = NULL;
    g_autofree char *fresh = NULL;

    if (!current.op || (!faultIsSaveFolder(folder) && !faultIsImage(path)))
        return;

    lost = faultLostPath("lost", path);
    fresh = faultLostPath("fresh", path);

    if (g_file_test(lost, G_FILE_TEST_EXISTS) || g_file_test(fresh, G_FILE_TEST_EXISTS) ||
        link(path, lost) == 0)
        return;

    if (errno != ENOENT || !g_file_set_contents(fresh, "", 0, NULL))
        abort();
}


/* The folder was synced: a power loss changes none of its names any more. */
static void
faultKeepNames(const char *folder)
{
    const char *kinds[] = { "lost", "fresh" };
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(kinds); i++) {
        g_autofree char *path = faultLostPath(kinds[i], NULL);
        g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
        const char *name;

        while (dir && (name = g_dir_read_name(dir))) {
            g_autofree char *file = g_uri_unescape_string(name, NULL);
            g_autofree char *of = g_path_get_dirname(file);
            g_autofree char *note = g_build_filename(path, name, NULL);

            if (STREQ(of, folder))
                remove(note);
        }
    }
}


/* Of what a host without power still has there is a copy. */
static void
faultKeep(const char *path)
{
    g_autofree char *dir = g_strdup_printf("%s.durable", g_getenv("FERRY_FAULT_FILE"));
    g_autofree char *name = g_path_get_basename(path);
    g_autofree char *copy = g_build_filename(dir, name, NULL);
    g_autofree char *text = NULL;
    gsize len;

    if (g_mkdir_with_parents(dir, 0700) < 0)
        abort();

    if (!g_file_get_contents(path, &text, &len, NULL))
        unlink(copy);
    else if (!g_file_set_contents(copy, text, len, NULL))
        abort();
}


/* The folder was synced: every name in it, old or gone, is what it is now. */
static void
faultKeepFolder(const char *path)
{
    g_autofree char *durable = g_strdup_printf("%s.durable", g_getenv("FERRY_FAULT_FILE"));
    const char *folders[] = { path, durable };
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(folders); i++) {
        g_autoptr(GDir) dir = g_dir_open(folders[i], 0, NULL);
        const char *name;

        while (dir && (name = g_dir_read_name(dir))) {
            g_autofree char *file = g_build_filename(path, name, NULL);

            if (g_str_has_suffix(name, ".xml"))
                faultKeep(file);
        }
    }
}


/* What is to happen to the journal that says @text, or NULL: it names the last
 * step that may have acted. */
static char *
faultJournal(const char *text)
{
    g_auto(GStrv) faults = faultRead();
    size_t i;

    for (i = 0; faults[i]; i++) {
        g_auto(GStrv) f = g_strsplit(faults[i], "/", 0);

        if (g_strv_length(f) == 3 && STREQ(f[0], "any"))
            return g_strdup(f[2]);

        if (g_strv_length(f) == 4 && STREQ(f[2], "journal")) {
            g_autofree char *plan = g_strdup_printf("<plan name='%s'", f[0]);
            g_autofree char *last = g_strdup_printf("last='%s'", f[1]);
            const char *entry = strstr(text, plan);
            const char *end = entry ? strchr(entry, '>') : NULL;

            if (end && g_strstr_len(entry, end - entry, last))
                return g_strdup(f[3]);
        }
    }

    return NULL;
}


/* The mark of the point of no return is set by few bytes: which step's that is,
 * the one that ran last tells. */
static char *
faultMark(void)
{
    const ferryStep *step = current.step ? current.step + 1 : NULL;
    g_auto(GStrv) faults = faultRead();

    /* which overwrites a block that the file has, so it does not matter that the disk is full */
    if (faults[0] && g_str_has_prefix(faults[0], "any/"))
        return STREQ(faults[0], "any/journal/enospc") ? NULL : faultJournal("");

    return step && step->name && step->durable && !step->undo ?
           faultFind(current.plan, step, "journal") : NULL;
}


/* Does the fault that was found for the journal happen in this call? */
static bool
faultStrikes(const char *what)
{
    if (STRNEQ_NULLABLE(journal.fault, what))
        return false;

    faultLog("fault %s", what);
    if (STRNEQ(what, "enospc"))
        g_clear_pointer(&journal.fault, g_free);
    return true;
}


/* No space is for good, until the test says otherwise; and then everything is. */
static void
faultFound(char *what)
{
    g_auto(GStrv) faults = faultRead();

    if (what || !faults[0] || !*faults[0] || STRNEQ_NULLABLE(journal.fault, "enospc")) {
        g_free(journal.fault);
        journal.fault = what;
    }
}


int
open64(const char *path,
       int flags,
       ...)
{
    FAULT_REAL(open64);
    va_list ap;
    mode_t mode;
    int fd;

    va_start(ap, flags);
    mode = va_arg(ap, mode_t);
    va_end(ap);

    if (((flags & O_CREAT) && faultSave(path, false, "unsaved-erofs")) ||
        ((flags & (O_CREAT | O_TMPFILE) & ~O_DIRECTORY) && faultImage(path, "image-erofs"))) {
        errno = EROFS;
        return -1;
    }

    fd = real(path, flags, mode);
    if (fd >= 0 && faultIsJournal(path, ".xml.new"))
        journal.fd = fd;
    return fd;
}


ssize_t
write(int fd,
      const void *buf,
      size_t len)
{
    FAULT_REAL(write);
    g_autofree char *what = NULL;
    ssize_t rc;

    if (fd == journal.fd) {
        g_autofree char *path = faultPath(fd);
        g_autofree char *text = g_strndup(buf, len);

        if (faultIsJournal(path, ".xml.new"))
            faultFound(faultJournal(text));
        if (faultIsJournal(path, ".xml.new") && faultStrikes("enospc")) {
            errno = ENOSPC;
            return -1;
        }
        if (faultIsJournal(path, ".xml.new") && faultStrikes("kill-driver")) {
            ignore_value(real(fd, buf, len / 2));
            kill(getpid(), SIGKILL);
        }
    }

    if (STREQ_NULLABLE(current.save, "unsaved-enospc")) {
        g_autofree char *path = faultPath(fd);

        if (faultSave(path, false, "unsaved-enospc")) {
            errno = ENOSPC;
            return -1;
        }
    }

    if (faultImageOpen(fd, "image-enospc")) {
        errno = ENOSPC;
        return -1;
    }

    what = faultCommand(fd);
    if (STREQ_NULLABLE(what, "error")) {
        g_autofree char *refused = faultRefused(buf, len);

        faultLog("fault error instead of %.*s", (int) len, (const char *) buf);
        if (real(fd, refused, strlen(refused)) != (ssize_t) strlen(refused))
            abort();
        return len;
    }

    rc = real(fd, buf, len);
    if (what)
        faultAnswered(fd, what);
    return rc;
}


ssize_t
sendmsg(int fd,
        const struct msghdr *msg,
        int flags)
{
    FAULT_REAL(sendmsg);
    g_autofree char *what = faultCommand(fd);
    ssize_t rc;

    if (STREQ_NULLABLE(what, "error")) {
        g_autofree char *refused = faultRefused(msg->msg_iov[0].iov_base, msg->msg_iov[0].iov_len);

        faultLog("fault error instead of a command with a descriptor");
        if (send(fd, refused, strlen(refused), 0) != (ssize_t) strlen(refused))
            abort();
        return msg->msg_iov[0].iov_len;
    }

    rc = real(fd, msg, flags);
    if (what)
        faultAnswered(fd, what);
    return rc;
}


ssize_t
pwrite64(int fd,
         const void *buf,
         size_t len,
         off64_t offset)
{
    FAULT_REAL(pwrite64);
    g_autofree char *path = faultPath(fd);

    if (faultIsJournal(path, ".xml")) {
        g_autofree char *mark = faultMark();

        faultFound(g_strdup(mark));
        if (mark && faultStrikes("enospc")) {
            errno = ENOSPC;
            return -1;
        }
        if (faultStrikes("kill-driver"))
            kill(getpid(), SIGKILL);
    }

    return real(fd, buf, len, offset);
}


int
fdatasync(int fd)
{
    FAULT_REAL(fdatasync);
    g_autofree char *path = faultPath(fd);
    int rc;

    if ((faultIsJournal(path, ".xml") && faultStrikes("eio")) || faultImage(path, "image-eio")) {
        errno = EIO;
        return -1;
    }

    rc = real(fd);
    if (rc == 0 && faultIsJournal(path, ".xml")) {
        faultTrace("commit", path);
        faultKeep(path);
    }
    return rc;
}


int
fsync(int fd)
{
    FAULT_REAL(fsync);
    g_autofree char *path = faultPath(fd);
    bool folder = path && g_str_has_suffix(path, "/ferry");
    int rc;

    if ((faultIsJournal(path, ".xml.new") && faultStrikes("eio")) ||
        (folder && faultStrikes("eio-folder")) || faultImage(path, "image-eio") ||
        (g_file_test(path, G_FILE_TEST_IS_DIR) && faultSave(path, true, "unsaved-folder"))) {
        errno = EIO;
        return -1;
    }

    rc = real(fd);
    if (rc == 0 && g_file_test(path, G_FILE_TEST_IS_DIR)) {
        faultTrace("sync", path);
        faultKeepNames(path);
    }
    if (rc == 0 && folder)
        faultKeepFolder(path);
    if (folder && faultIsRecorded())
        faultLog("synced");
    return rc;
}


int
rename(const char *from,
       const char *to)
{
    FAULT_REAL(rename);

    if ((faultIsJournal(from, ".xml.new") && faultStrikes("eio")) ||
        faultSave(from, false, "unsaved-eio")) {
        errno = EIO;
        return -1;
    }

    faultTrace("rename", to);
    faultLose(to);
    return real(from, to);
}


int
unlink(const char *path)
{
    FAULT_REAL(unlink);

    if (g_file_test(path, G_FILE_TEST_EXISTS)) {
        if (faultSave(path, false, "unsaved-erofs")) {
            errno = EROFS;
            return -1;
        }
        faultTrace("unlink", path);
        faultLose(path);
    }

    return real(path);
}


/* Names of images */

int
linkat(int from_dir,
       const char *from,
       int to_dir,
       const char *to,
       int flags)
{
    FAULT_REAL(linkat);

    if (faultImage(to, "image-erofs")) {
        errno = EROFS;
        return -1;
    }

    faultLose(to);
    return real(from_dir, from, to_dir, to, flags);
}


int
renameat2(int from_dir,
          const char *from,
          int to_dir,
          const char *to,
          unsigned int flags)
{
    FAULT_REAL(renameat2);

    if (faultImage(to, "image-erofs")) {
        errno = EROFS;
        return -1;
    }

    faultLose(to);
    return real(from_dir, from, to_dir, to, flags);
}


int
unlinkat(int dir,
         const char *name,
         int flags)
{
    FAULT_REAL(unlinkat);
    g_autofree char *folder = faultPath(dir);
    g_autofree char *path = folder ? g_build_filename(folder, name, NULL) : g_strdup(name);

    if (faultImage(path, "image-erofs")) {
        errno = EROFS;
        return -1;
    }

    faultLose(path);
    return real(dir, name, flags);
}


int
ftruncate64(int fd,
            off64_t size)
{
    FAULT_REAL(ftruncate64);

    if (faultImageOpen(fd, "image-enospc")) {
        errno = ENOSPC;
        return -1;
    }

    return real(fd, size);
}
