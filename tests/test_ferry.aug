(*
Module: Test_ferry
  The lens of ferry.conf reads and writes it.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later
*)

module Test_ferry =
  let conf = "# how long the network may be away\n\nmigrate_reconnect = 120\n"

  test Ferry.lns get conf =
    { "#comment" = "how long the network may be away" }
    { }
    { "migrate_reconnect" = "120" }

  test Ferry.lns put conf after set "/migrate_reconnect" "0" =
    "# how long the network may be away\n\nmigrate_reconnect = 0\n"

  test Ferry.lns put "" after set "/migrate_reconnect" "5" = "migrate_reconnect = 5\n"

  test Ferry.lns get "migrate_reconect = 120\n" = *
  test Ferry.lns get "migrate_reconnect = \"long\"\n" = *
