"""A server that does not speak HTTP as it should; the path of a request says how. For each it serves one request.

upstream.py PORT
"""

import socket
import struct
import sys
import threading

endless = 0
lock = threading.Lock()
OK = b"HTTP/1.1 200 OK\r\n"


def reset(stream):
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def forever(stream, first, again):
    """Says something until nobody listens any more."""
    global endless
    with lock:
        endless += 1
    try:
        stream.sendall(first)
        while True:
            stream.sendall(again * 100)
    except OSError:
        pass
    finally:
        with lock:
            endless -= 1


def answer(stream, path):
    if path == "/reset":
        reset(stream)
    elif path == "/reset-in-body":
        stream.sendall(OK + b"content-length: 100\r\n\r\nhalf")
        reset(stream)
    elif path == "/close":
        pass
    elif path == "/garbage":
        stream.sendall(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")
    elif path == "/no-head":
        stream.sendall(b"hello\n")
    elif path == "/endless-head":
        forever(stream, OK, b"x-more: " + b"y" * 100 + b"\r\n")
    elif path == "/endless-line":
        forever(stream, OK + b"x-more: ", b"y" * 100)
    elif path == "/endless-hints":
        forever(stream, b"", b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n")
    elif path == "/endless-body":
        forever(stream, OK + b"transfer-encoding: chunked\r\n\r\n", b"4\r\nmore\r\n")
    elif path == "/short":
        stream.sendall(OK + b"content-length: 100\r\n\r\nshort")
    elif path == "/long":
        stream.sendall(OK + b"content-length: 4\r\n\r\nlongHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged")
    elif path == "/two-lengths":
        stream.sendall(OK + b"content-length: 4\r\ncontent-length: 5\r\n\r\nlong")
    elif path == "/bad-chunk":
        stream.sendall(OK + b"transfer-encoding: chunked\r\n\r\nxyz\r\nlong\r\n0\r\n\r\n")
    elif path == "/unasked-switch":
        stream.sendall(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nnoise")
    elif path == "/hints":
        stream.sendall(b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n" * 1_000 + b"HTTP/1.1 102 Processing\r\n\r\n")
        stream.sendall(OK + b"content-length: 4\r\n\r\nfine")
    elif path == "/not-modified":
        stream.sendall(b"HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\ncontent-length: 100\r\n\r\n")
    elif path == "/no-content":
        stream.sendall(b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n")
    elif path == "/length":
        stream.sendall(OK + b"content-length: 100\r\n\r\n")
    elif path == "/folded":
        stream.sendall(OK + b"x: a\r\n b\r\ncontent-length: 4\r\n\r\nfine")
    elif path == "/endless":
        text = str(endless).encode()
        stream.sendall(OK + b"connection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(text), text))
    else:
        stream.sendall(OK + b"connection: close\r\ncontent-length: 4\r\n\r\nfine")


def serve(stream):
    with stream:
        head = b""
        while b"\r\n\r\n" not in head:
            more = stream.recv(65536)
            if not more:
                return
            head += more
        answer(stream, head.split(b" ")[1].decode())
        try:
            stream.shutdown(socket.SHUT_WR)
            while stream.recv(65536):
                pass
        except OSError:
            pass


listener = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True, backlog=256)
while True:
    connection, _ = listener.accept()
    threading.Thread(target=serve, args=(connection,), daemon=True).start()
