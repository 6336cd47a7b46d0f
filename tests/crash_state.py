"""What there is of a domain, for the crash walk of one host: see crash_embedded.py.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later
"""

import contextlib
import json
import os
import re
import stat

import faultmatrix
import imagememo
from ferrytest import check


def plain(scene, text):
    """XML without what differs from domain to domain and does not matter."""
    text = re.sub(r'[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}', 'UUID', text)
    text = re.sub(rf'(domain-\d+-|\b){scene.name}\b', 'NAME', text)
    text = re.sub(r'\s*<title>again</title>', '', text) # see crash_others.define()
    text = re.sub(r" (id|index)='\d+'", '', text).replace(" ready='yes'", '').replace('libvirt-0', 'libvirt-')
    # the stock driver forgets the alias of a controller with model='none' when it starts
    # again
    return re.sub(r"(<controller type='usb'[^>]* model='none')>.*?</controller>", r'\1/>',
                  re.sub(r'libvirt-\d+', 'libvirt-N', text), flags=re.S)


def scene_files(scene):
    for name in scene.files():
        path = scene.host.path(scene.name + name)
        if os.path.exists(path):
            yield name, path


def owners(scene):
    """Owner, mode and labels of each file."""
    found = {}
    for name, path in scene_files(scene):
        if name in scene.BELOW:
            continue
        with contextlib.suppress(FileNotFoundError): # it is being removed
            st = os.stat(path)
            found[name] = (st.st_uid, st.st_gid, oct(st.st_mode),
                           sorted((x, os.getxattr(path, x)) for x in os.listxattr(path) if 'timestamp' not in x))
    return found


def locks(scene):
    """The image locks that QEMU holds."""
    def number(path):
        st = os.stat(path)
        return f'{os.major(st.st_dev):02x}:{os.minor(st.st_dev):02x}:{st.st_ino}'
    inodes = {}
    for name, path in scene_files(scene):
        with contextlib.suppress(FileNotFoundError): # as above
            inodes[number(path)] = name
    with open('/proc/locks') as f:
        rows = [line.split() for line in f]
    return sorted((inodes[r[5]], r[3], r[6], r[7]) for r in rows if r[1] == 'OFDLCK' and r[5] in inodes)


def listening(scene):
    with open('/proc/net/unix') as f:
        rows = [line.split() for line in f.readlines()[1:]]
    return sorted(plain(scene, r[7]) for r in rows
                  if len(r) > 7 and int(r[3], 16) & 0x10000 and f'{scene.name}-' in r[7] and scene.host.dir in r[7])


def journal(scene):
    """What the journal says, without what no two operations have in common."""
    texts = []
    for path in scene.host.live_files():
        try:
            with open(path) as f:
                texts.append(f.read())
        except FileNotFoundError:
            pass
    text = ''.join(t for t in texts if f"name='{scene.name}'" in t)
    if "committed='off'" in text:
        # a full disk takes no new journal; this says that the copy just goes on
        text = re.sub(r"\s*<plan name='pivot' .*?/>", '', text.replace("committed='off'", "committed='no '"))
        text = re.sub(r" leader='.*?'", '', text)
        text = re.sub("goal='.*?'", "goal='mirror'", re.sub("pause='.*?'", "pause='no'", text))
        text = re.sub(r'\s*<old>.*?</old>', '', text, flags=re.S)
    return re.sub(r" (pid|start|boot|dev|ino|born|begun|since)='.*?'", '', plain(scene, text))


# Not in Scene.state(), with which again() compares
MORE = ('what the journal says', 'definition', 'owners', 'saved job', 'live XML', 'locks', 'stats', 'listening')


def look(scene):
    """The state of the fault matrix (Scene.state()), and more (MORE)."""
    state = scene.state()
    state['definition'] = '' if scene.transient else plain(scene, scene.call('XMLDesc', faultmatrix.INACTIVE))
    state['owners'] = owners(scene)
    state['what the journal says'] = journal(scene)
    if scene.running():
        with open(os.path.join(scene.host.root, 'run', 'qemu', f'{scene.name}.xml')) as f:
            state['saved job'] = re.findall("<job type='.*?' async='.*?'", f.read())
        state.update({'live XML': plain(scene, scene.call('XMLDesc', 0)), 'locks': locks(scene),
                      'stats': scene.call('jobStats', 0)['type'], 'listening': listening(scene)})
    return state


def roughly(state):
    """The state without O_DIRECT: when QEMU refused a command, a copy may go on without it."""
    return {k: re.sub("'direct': (True|False), ", '', v) if k == 'nodes' else v for k, v in state.items()}


def unheld(state):
    """The state without the old images that are kept open, and locked, while their storage does not
    answer."""
    return {k: re.sub(r"\('ferry-libvirt-[^[]*\[\]\),? ?", '', v) if k == 'nodes' else v
            for k, v in state.items() if k != 'locks'}


def undefined(state):
    """The state without what a domain loses that is undefined while it runs."""
    return {k: v for k, v in state.items() if k not in ('definition', 'metadata', 'checkpoints')}


def unowned(state):
    """The state without owners: after a power loss the stock driver gives no image back to
    its owner."""
    return {k: v for k, v in state.items() if k != 'owners'}


def content(path):
    """Format, bitmaps and checksum of an image that nobody has open: qemu-img fails on a
    locked image."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        return 'no file'
    code, out = imagememo.examine(path, 'qemu-img', 'info', '--output', 'json')
    check(code == 0, f'qemu-img info {path}: {out}')
    info = json.loads(out)
    bitmaps = info.get('format-specific', {}).get('data', {}).get('bitmaps', [])
    return info['format'], sorted(b['name'] for b in bitmaps), imagememo.content(path, info['format'])


def look_off(scene):
    """The state of a domain that does not run: what is on the disk."""
    state = {'config': scene.config_source(), 'files': scene.files(), 'journal': scene.journal(),
             'definition': '' if scene.transient else scene.call('XMLDesc', faultmatrix.INACTIVE),
             'owners': owners(scene),
             'QEMUs': len(scene.host.qemu_pids()), 'listening': listening(scene)}
    if hasattr(scene, 'metadata'):
        state.update(metadata=scene.metadata(), checkpoints=scene.checkpoints())
    spoilt = scene.spoilt()
    state['data'] = {name: content(path) for name, path in scene_files(scene) if path not in spoilt}
    return {k: plain(scene, repr(v)) for k, v in state.items()}
