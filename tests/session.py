#!/usr/bin/python3
"""A driver that stays: see Session in ferrytest.py. Requests and replies are
lines of JSON."""

import ctypes
import json
import sys
import threading
import time

import libvirt

events = []
others = []
lives = []
lock = threading.Lock()


def loop():
    while True:
        libvirt.virEventRunDefaultImpl()


def block_job(conn, dom, disk, type_, status, name):
    with lock:
        events.append([name, disk, type_, status])


def lifecycle(conn, dom, event, detail, opaque):
    with lock:
        lives.append([event, detail])


def job_completed(conn, dom, stats, opaque):
    with lock:
        others.append(['job-completed', stats])


def threshold(conn, dom, device, path, limit, excess, opaque):
    with lock:
        others.append(['threshold', device, path, limit])


def act_as_daemon():
    """The driver looks up secrets with the rights of whoever calls it, and
    outside a daemon nobody has said who that is."""
    lib = ctypes.CDLL('libvirt.so.0')
    lib.virIdentityGetSystem.restype = ctypes.c_void_p
    lib.virIdentitySetCurrent(ctypes.c_void_p(lib.virIdentityGetSystem()))


def plain(value):
    """What JSON can say; an object of libvirt's is its name."""
    if isinstance(value, (int, str, list, dict, type(None))):
        return value
    return value.getName() if hasattr(value, 'getName') else str(value)


def main():
    libvirt.registerErrorHandler(lambda ctx, err: None, None)
    libvirt.virEventRegisterDefaultImpl()
    # secrets must be there first, and stay: the other driver looks there
    secrets = libvirt.open(sys.argv[2]) if len(sys.argv) > 2 else None
    if secrets:
        act_as_daemon()
    conn = libvirt.open(sys.argv[1])
    threading.Thread(target=loop, daemon=True).start()
    conn.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB, block_job, 'BLOCK_JOB')
    conn.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2, block_job, 'BLOCK_JOB_2')
    conn.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle, None)
    conn.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED, job_completed, None)
    conn.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_THRESHOLD, threshold, None)
    print(json.dumps({'result': 'ready'}), flush=True)

    def answer(req):
        try:
            if 'secret' in req:
                secret = secrets.secretDefineXML(req['secret'])
                secret.setValue(req['value'].encode())
                result = secret.UUIDString()
            elif 'events' in req:
                time.sleep(req.get('wait', 0))
                with lock:
                    result = list({'others': others, 'lifecycle': lives}.get(req['events'], events))
            else:
                if req['domain'] is None:
                    obj = conn
                else:
                    obj = conn.lookupByName(req['domain'])
                if 'snapshot' in req:
                    obj = obj.snapshotLookupByName(req['snapshot'])
                if 'checkpoint' in req:
                    obj = obj.checkpointLookupByName(req['checkpoint'])
                result = getattr(obj, req['method'])(*req['args'])
                if isinstance(result, list):
                    result = [plain(r) for r in result]
                else:
                    result = plain(result)
            reply = {'result': result}
        except libvirt.libvirtError as e:
            reply = {'error': str(e), 'code': e.get_error_code(), 'domain': e.get_error_domain()}
        return reply

    background = []  # calls that run beside others: (thread, [reply])

    def begin(req):
        replies = []
        thread = threading.Thread(target=lambda: replies.append(answer(req)), daemon=True)
        background.append((thread, replies))
        thread.start()
        return {'result': len(background) - 1}

    def await_end(number, seconds):
        thread, replies = background[number]
        thread.join(seconds)
        return replies[0] if replies else {'result': 'still running'}

    for line in sys.stdin:
        req = json.loads(line)
        if req.pop('background', False):
            reply = begin(req)
        elif 'await' in req:
            reply = await_end(req['await'], req['seconds'])
        else:
            reply = answer(req)
        print(json.dumps(reply), flush=True)


if __name__ == '__main__':
    main()
