/*
 * policy.c: what a domain's metadata says of its operations
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Calls that libvirt has defined have no room for what Ferry can do beyond them. So the domain's
 * owner says it once, in metadata, which libvirt keeps as it is:
 *
 *   virsh metadata DOMAIN urn:ferry:domain:1.0 --key ferry \
 *         --set "<policy quiesce='required' quiesce-timeout='10'/>"
 */

#include <config.h>

#include "ops/policy.h"
#include "virerror.h"
#include "virstring.h"
#include "virxml.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

#define FERRY_POLICY_NAMESPACE "urn:ferry:domain:1.0"

typedef enum {
    FERRY_POLICY_QUIESCE_NO,
    FERRY_POLICY_QUIESCE_TRY,
    FERRY_POLICY_QUIESCE_REQUIRED,

    FERRY_POLICY_QUIESCE_LAST
} ferryPolicyQuiesceMode;

VIR_ENUM_DECL(ferryPolicyQuiesceMode);
VIR_ENUM_IMPL(ferryPolicyQuiesceMode,
              FERRY_POLICY_QUIESCE_LAST,
              "no",
              "try",
              "required");


/* Returns the element of Ferry's namespace in the metadata of @def, or NULL. libvirt has a function
 * for that (virXMLFindChildNodeByNs), but not for modules. */
static xmlNodePtr
ferryPolicyNode(virDomainDef *def)
{
    xmlNodePtr node;

    for (node = def->metadata ? def->metadata->children : NULL; node; node = node->next) {
        if (node->type == XML_ELEMENT_NODE && node->ns &&
            STREQ((const char *) node->ns->href, FERRY_POLICY_NAMESPACE))
            return node;
    }

    return NULL;
}


/* Returns 0 if @node is a policy that this version understands, or -1 with @why set. */
static int
ferryPolicyParse(xmlNodePtr node,
                 ferryQuiesce *quiesce,
                 char **why)
{
    g_autofree char *mode = virXMLPropString(node, "quiesce");
    g_autofree char *timeout = virXMLPropString(node, "quiesce-timeout");
    int value = mode ? ferryPolicyQuiesceModeTypeFromString(mode) : FERRY_POLICY_QUIESCE_NO;
    xmlAttrPtr attr;

    if (!virXMLNodeNameEqual(node, "policy")) {
        *why = g_strdup_printf(_("unknown element <%1$s>; known: <policy>"), node->name);
        return -1;
    }

    for (attr = node->properties; attr; attr = attr->next) {
        const char *name = (const char *) attr->name;

        if (STRNEQ(name, "quiesce") && STRNEQ(name, "quiesce-timeout")) {
            *why = g_strdup_printf(_("unknown attribute '%1$s'; known: quiesce and quiesce-timeout"),
                                   name);
            return -1;
        }
    }

    if (value < 0) {
        *why = g_strdup_printf(_("quiesce is 'required', 'try' or 'no', not '%1$s'"), mode);
        return -1;
    }

    if (timeout && (virStrToLong_uip(timeout, NULL, 10, &quiesce->timeout) < 0 ||
                    quiesce->timeout == 0 || quiesce->timeout > FERRY_QUIESCE_SECONDS_MAX)) {
        *why = g_strdup_printf(_("quiesce-timeout is a number of seconds from 1 to %1$d, not '%2$s'"),
                               FERRY_QUIESCE_SECONDS_MAX, timeout);
        return -1;
    }

    quiesce->wanted = value != FERRY_POLICY_QUIESCE_NO;
    quiesce->optional = value == FERRY_POLICY_QUIESCE_TRY;
    return 0;
}


/**
 * ferryPolicyExists:
 *
 * Returns whether the domain, which is locked, has a policy, be it one that says nothing.
 */
bool
ferryPolicyExists(virDomainObj *vm)
{
    return ferryPolicyNode(vm->def) != NULL;
}


/**
 * ferryPolicyQuiesce:
 * @vm: domain, locked
 * @quiesce: filled in
 *
 * Reads whether the guest is to be frozen while its disks are held. Returns 0; or -1 with an error
 * reported if the policy cannot be understood, or the guest must be frozen and has no agent.
 */
int
ferryPolicyQuiesce(virDomainObj *vm,
                   ferryQuiesce *quiesce)
{
    xmlNodePtr node = ferryPolicyNode(vm->def);
    g_autofree char *why = NULL;

    *quiesce = (ferryQuiesce) { 0 };

    if (!node)
        return 0;

    if (ferryPolicyParse(node, quiesce, &why) < 0) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("the policy of domain '%1$s' cannot be followed: %2$s; change it with 'virsh "
                         "metadata %1$s %3$s'"),
                       vm->def->name, why, FERRY_POLICY_NAMESPACE);
        return -1;
    }

    if (ferryQuiesceCheck(vm, quiesce) == 0)
        return 0;

    why = g_strdup(virGetLastErrorMessage());
    virReportError(virGetLastErrorCode(),
                   _("the policy of domain '%1$s' wants its guest frozen: %2$s; or change the policy with "
                     "'virsh metadata %1$s %3$s'"),
                   vm->def->name, why, FERRY_POLICY_NAMESPACE);
    return -1;
}
