(*
Module: Ferry
  The settings in ferry.conf: see ferry.conf(5).

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later
*)

module Ferry =
  autoload xfm

  let number = Build.key_value_line "migrate_reconnect" Sep.space_equal (store Rx.integer)

  let lns = (Util.comment | Util.empty | number)*

  let filter = incl "/etc/libvirt/ferry.conf" . Util.stdexcl

  let xfm = transform lns filter
