/*
 * source.h: storage sources: to and from XML, as configuration, compared
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "qemu/qemu_domain.h"

int ferrySourceFormat(virBuffer *buf,
                      virStorageSource *src,
                      virDomainXMLOption *xmlopt,
                      bool runtime);
virStorageSource *ferrySourceParse(xmlNodePtr node, virDomainXMLOption *xmlopt, bool runtime);
virStorageSource *ferrySourceAsConfig(virStorageSource *src, virDomainXMLOption *xmlopt);
bool ferrySourceInUse(virDomainDef *def, virStorageSource *elem, virStorageSource *except);
bool ferrySourceIsFile(virStorageSource *src);
bool ferrySourceIsSamePlace(virStorageSource *a, virStorageSource *b);
bool ferrySourceIsOneRawLayer(virStorageSource *src);
int ferrySourceRefuseDataFile(virDomainObj *vm, const char *dst, virStorageSource *image);
