/*
 * tool.c: run qemu-img on a file
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * An image's header is written by the guest's QEMU and may name any other file. So
 * qemu-img runs as QEMU's user, and gets a descriptor instead of a name that could have
 * been turned elsewhere. It opens the descriptor's path in /proc, which asks for rights
 * to the file: QEMU's user owns the file meanwhile, if the caller allows that.
 *
 * qemu-img may never end when its storage hangs, and then cannot even be killed.
 */

#include <config.h>

#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/tool.h"
#include "virerror.h"
#include "virfile.h"
#include "virlog.h"
#include "virthread.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.tool");

#define FERRY_TOOL_MS (20 * 1000)
#define FERRY_TOOL_KILL_MS 1000
#define FERRY_TOOL_SAID_MAX 4096


/**
 * ferryToolPath:
 *
 * Returns the path by which the tool opens @fd.
 */
char *
ferryToolPath(int fd)
{
    return g_strdup_printf("/proc/self/fd/%d", fd);
}


/* virCommandFree() does not wait for a process that it has told the pid of. */
static void
ferryToolReap(void *opaque)
{
    int status;

    ignore_value(virCommandWait(opaque, &status));
    virCommandFree(opaque);
    virResetLastError();
}


/* Returns whether the process has ended within @timeout milliseconds. */
static bool
ferryToolEnds(struct pollfd *end,
              int timeout)
{
    int rc;

    while ((rc = poll(end, 1, timeout)) < 0 && errno == EINTR)
        ;

    return rc == 1;
}


/* Kills @cmd. If that takes long, another thread waits for its end, and true is returned:
 * @cmd does not belong to the caller any more. */
static bool
ferryToolKill(virCommand *cmd,
              pid_t pid,
              struct pollfd *end)
{
    virThread thread;
    int status;

    ignore_value(kill(pid, SIGKILL));

    if (ferryToolEnds(end, FERRY_TOOL_KILL_MS)) {
        ignore_value(virCommandWait(cmd, &status));
        return false;
    }

    return virThreadCreateFull(&thread, /* joinable= */ false, ferryToolReap, "ferry-tool",
                               /* worker= */ false, cmd) == 0;
}


/* Runs @cmd, which is freed. Returns 0, or -1 with an error reported. */
static int
ferryToolWait(virCommand *cmd,
              int said)
{
    g_autoptr(virCommand) own = cmd;
    char text[FERRY_TOOL_SAID_MAX] = "";
    VIR_AUTOCLOSE pidfd = -1;
    struct pollfd end = { .events = POLLIN };
    virErrorPtr err = NULL;
    int status;
    pid_t pid;

    virCommandSetErrorFD(cmd, &said);
    virCommandRawStatus(cmd);

    if (virCommandRunAsync(cmd, &pid) < 0)
        return -1;

    if ((end.fd = pidfd = pidfd_open(pid, /* flags= */ 0)) < 0) {
        virReportSystemError(errno, "%s", _("cannot wait for qemu-img"));
        virErrorPreserveLast(&err);
        virCommandAbort(cmd);
        virErrorRestore(&err);
        return -1;
    }

    if (!ferryToolEnds(&end, FERRY_TOOL_MS)) {
        virReportError(VIR_ERR_OPERATION_TIMEOUT, _("qemu-img did not end within %1$d seconds"),
                       FERRY_TOOL_MS / 1000);
        virErrorPreserveLast(&err);
        if (ferryToolKill(cmd, pid, &end))
            g_steal_pointer(&own);
        virErrorRestore(&err);
        return -1;
    }

    if (virCommandWait(cmd, &status) < 0)
        return -1;

    if (status != 0) {
        ignore_value(pread(said, text, sizeof(text) - 1, /* offset= */ 0));
        virReportError(VIR_ERR_OPERATION_FAILED, _("qemu-img failed (status %1$d): %2$s"),
                       status, g_strchomp(text));
        return -1;
    }

    return 0;
}


/**
 * ferryToolRun:
 * @cmd: names the image by ferryToolPath(); taken over
 * @fd: the image
 * @lend: QEMU's user may own the image while @cmd runs
 * @uid, @gid: QEMU's user; ignored if the driver does not run as root
 *
 * Returns 0, or -1 with an error reported, also when @cmd takes too long.
 */
int
ferryToolRun(virCommand *cmd,
             int fd,
             bool lend,
             uid_t uid,
             gid_t gid)
{
    VIR_AUTOCLOSE said = memfd_create("ferry-tool", MFD_CLOEXEC);
    bool lent = false;
    struct stat st;
    int rc;

    if (said < 0 || fstat(fd, &st) < 0) {
        virReportSystemError(errno, "%s", _("cannot run qemu-img"));
        virCommandFree(cmd);
        return -1;
    }

    if (geteuid() == 0 && uid != (uid_t) -1) {
        virCommandSetUID(cmd, uid);
        virCommandSetGID(cmd, gid);
        lent = lend && st.st_uid != uid && fchown(fd, uid, gid) == 0;
    }

    virCommandPassFD(cmd, fd, /* flags= */ 0);
    rc = ferryToolWait(cmd, said);

    if (lent && fchown(fd, st.st_uid, st.st_gid) < 0)
        VIR_WARN("cannot give an image back to user %u: %s", st.st_uid, g_strerror(errno));

    return rc;
}
