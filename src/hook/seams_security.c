/*
 * seams_security.c: what the driver gives QEMU access to, and takes back
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Seams, as in seams.c: block/profile.c says why they are needed. All callers hold the domain's lock.
 */

#include <config.h>

#include "block/profile.h"
#include "block/profileview.h"
#include "compat/security.h"
#include "hook/seams.h"
#include "qemu/qemu_domain.h"
#include "qemu/qemu_security.h"

FERRY_SEAM(qemuSecuritySetImageLabel);
FERRY_SEAM(qemuSecurityRestoreImageLabel);
FERRY_SEAM(virSecurityManagerDomainRestorePathLabel);
FERRY_SEAM(virSecurityManagerRestoreAllLabel);
FERRY_SEAM(virSecurityManagerRestoreChardevLabel);
FERRY_SEAM(virSecurityManagerRestoreHostdevLabel);
FERRY_SEAM(virSecurityManagerRestoreImageLabel);
FERRY_SEAM(virSecurityManagerRestoreInputLabel);
FERRY_SEAM(virSecurityManagerRestoreMemoryLabel);
FERRY_SEAM(virSecurityManagerRestoreNetdevLabel);


/* Makes the profile anew. Only the AppArmor driver: the others have labelled the image already. It is
 * called as their owner does, with that one locked. */
static int
ferryProfileRenew(virQEMUDriver *driver,
                  virDomainObj *vm,
                  virStorageSource *src)
{
    virSecurityManager *mgr = driver->securityManager;
    virSecurityManager *apparmor = ferryProfileDriver(mgr);
    g_autoptr(ferryProfileView) view = ferryProfileViewNew(mgr, vm->def, /* tidy= */ false, /* except= */ NULL);
    g_autoptr(virQEMUDriverConfig) cfg = virQEMUDriverGetConfig(driver);
    virDomainDef *def = ferryProfileViewDef(view, vm->def);
    VIR_LOCK_GUARD lock = virObjectLockGuard(mgr);

    return __real_virSecurityManagerRestoreImageLabel(apparmor, FERRY_SHARED_OF(cfg) def, src, /* flags= */ 0);
}


int
__wrap_qemuSecuritySetImageLabel(virQEMUDriver *driver,
                                 virDomainObj *vm,
                                 virStorageSource *src,
                                 bool backingChain,
                                 bool chainTop)
{
    if (__real_qemuSecuritySetImageLabel(driver, vm, src, backingChain, chainTop) < 0)
        return -1;

    if (!ferryProfileGranted(driver->securityManager, vm->def, src, backingChain) ||
        ferryProfileRenew(driver, vm, src) == 0)
        return 0;

    /* it is below a disk's image: QEMU has it open, so its labels stay */
    ferryProfileTakeBack(vm->def, src);
    return -1;
}


int
__wrap_qemuSecurityRestoreImageLabel(virQEMUDriver *driver,
                                     virDomainObj *vm,
                                     virStorageSource *src,
                                     bool backingChain)
{
    ferryProfileRevoked(driver->securityManager, vm->def, src, backingChain);

    return __real_qemuSecurityRestoreImageLabel(driver, vm, src, backingChain);
}


int
__wrap_virSecurityManagerRestoreImageLabel(virSecurityManager *mgr,
                                           FERRY_SHARED_PARAMETER virDomainDef *def,
                                           virStorageSource *src,
                                           virSecurityDomainImageLabelFlags flags)
{
    g_autoptr(ferryProfileView) view = ferryProfileViewNew(mgr, def, /* tidy= */ true, /* except= */ src);

    def = ferryProfileViewDef(view, def);
    return __real_virSecurityManagerRestoreImageLabel(mgr, FERRY_SHARED_ARGUMENT def, src, flags);
}


int
__wrap_virSecurityManagerRestoreChardevLabel(virSecurityManager *mgr,
                                             virDomainDef *def,
                                             virDomainChrSourceDef *source,
                                             bool stdioLogd)
{
    g_autoptr(ferryProfileView) view = ferryProfileViewNew(mgr, def, /* tidy= */ true, /* except= */ NULL);

    return __real_virSecurityManagerRestoreChardevLabel(mgr, ferryProfileViewDef(view, def), source, stdioLogd);
}


int
__wrap_virSecurityManagerRestoreHostdevLabel(virSecurityManager *mgr,
                                             virDomainDef *def,
                                             virDomainHostdevDef *dev,
                                             const char *vroot)
{
    g_autoptr(ferryProfileView) view = ferryProfileViewNew(mgr, def, /* tidy= */ true, /* except= */ NULL);

    return __real_virSecurityManagerRestoreHostdevLabel(mgr, ferryProfileViewDef(view, def), dev, vroot);
}


int
__wrap_virSecurityManagerRestoreInputLabel(virSecurityManager *mgr,
                                           virDomainDef *def,
                                           virDomainInputDef *input)
{
    g_autoptr(ferryProfileView) view = ferryProfileViewNew(mgr, def, /* tidy= */ true, /* except= */ NULL);

    return __real_virSecurityManagerRestoreInputLabel(mgr, ferryProfileViewDef(view, def), input);
}


int
__wrap_virSecurityManagerRestoreMemoryLabel(virSecurityManager *mgr,
                                            virDomainDef *def,
                                            virDomainMemoryDef *mem)
{
    g_autoptr(ferryProfileView) view = ferryProfileViewNew(mgr, def, /* tidy= */ true, /* except= */ NULL);

    return __real_virSecurityManagerRestoreMemoryLabel(mgr, ferryProfileViewDef(view, def), mem);
}


int
__wrap_virSecurityManagerRestoreNetdevLabel(virSecurityManager *mgr,
                                            virDomainDef *def,
                                            virDomainNetDef *net)
{
    g_autoptr(ferryProfileView) view = ferryProfileViewNew(mgr, def, /* tidy= */ true, /* except= */ NULL);

    return __real_virSecurityManagerRestoreNetdevLabel(mgr, ferryProfileViewDef(view, def), net);
}


int
__wrap_virSecurityManagerDomainRestorePathLabel(virSecurityManager *mgr,
                                                virDomainDef *def,
                                                const char *path)
{
    g_autoptr(ferryProfileView) view = ferryProfileViewNew(mgr, def, /* tidy= */ true, /* except= */ NULL);

    return __real_virSecurityManagerDomainRestorePathLabel(mgr, ferryProfileViewDef(view, def), path);
}


/* QEMU is gone. */
int
__wrap_virSecurityManagerRestoreAllLabel(virSecurityManager *mgr,
                                         FERRY_SHARED_PARAMETER virDomainDef *def,
                                         bool migrated,
                                         bool stdioLogd)
{
    ferryProfileForget(def);

    return __real_virSecurityManagerRestoreAllLabel(mgr, FERRY_SHARED_ARGUMENT def, migrated, stdioLogd);
}
