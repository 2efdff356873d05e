/**
 * `localhost` has two addresses, and names like `x.localhost` resolve to ::1 first: a server that listens on 127.0.0.1
 * only would make clients knock at the wrong door, or hand them to whoever listens there. The twin listens on the same
 * port of ::1 and passes its connections to the server.
 */
import net from 'node:net';

export interface LoopbackTwin {
  /** Stops accepting; connections that were passed on are the server's. */
  close(): void;
}

/**
 * Undefined where there is nothing to do: another address than 127.0.0.1, or a machine without ::1. Where another
 * program has the port of ::1, `onTaken` is called: clients that find that one first will not find us.
 */
export function listenOnTwin(
  server: net.Server,
  host: string,
  port: number,
  onTaken: () => void,
): Promise<LoopbackTwin | undefined> {
  if (host !== '127.0.0.1' && host !== 'localhost') return Promise.resolve(undefined);
  const twin = net.createServer({ allowHalfOpen: true, noDelay: true, keepAlive: true }, (socket) =>
    server.emit('connection', socket),
  );
  return new Promise((resolve) => {
    twin.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EADDRINUSE') onTaken();
      resolve(undefined);
    });
    twin.listen({ host: '::1', port, ipv6Only: true }, () => {
      twin.removeAllListeners('error');
      // Nothing more can go wrong that the server itself would not notice.
      twin.on('error', () => undefined);
      resolve({ close: () => void twin.close() });
    });
  });
}
