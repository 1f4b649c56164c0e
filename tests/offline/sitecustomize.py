"With this folder on PYTHONPATH, Python talks to this machine only: no test needs the network"
import socket

def _guarded(method):
    "`method` of a socket, for addresses on this machine only"
    def call(self, address):
        inet = self.family in (socket.AF_INET, socket.AF_INET6)
        if inet and address[0] not in ('127.0.0.1', '::1', 'localhost', ''):
            raise OSError(f'tests do not use the network: {address}')
        return method(self, address)
    call.guards = method
    return call

for _name in ('connect', 'connect_ex', 'bind'):
    _method = getattr(socket.socket, _name)
    if not hasattr(_method, 'guards'): setattr(socket.socket, _name, _guarded(_method))
