/** Where a program of a warm chain calls itself in its rehearsal (decision 0021): what the SDK and the sidecar share. */
import { RpcClient } from "./client.ts";
import { startRpcServer, type RpcServer } from "./server.ts";
import type { Implementation } from "./service.ts";

/** For a whole rehearsal: far beyond what it takes, also where the machine has no time. */
export const REHEARSAL_LIMIT_MS = 30_000;

/** Ports from a chain's first on that may be its own: on a cluster they lie among those that the system gives out. */
const CHAIN_PORTS = 64;
const MOST_TRIES = 8;

/** A server, and a way to connect to it. */
export interface RehearsalServer {
  connect(): RpcClient;
  close(): Promise<void>;
}

/** Starts a server on a free port that no element of the chain will want. */
export async function startRehearsalServer(
  implementations: readonly Implementation[],
  { sidecarPort }: { readonly sidecarPort: number },
): Promise<RehearsalServer> {
  const isOfChain = (port: number): boolean => port >= sidecarPort && port < sidecarPort + CHAIN_PORTS;
  let server: RpcServer | undefined;
  for (let tries = 0; server === undefined || (isOfChain(server.port) && tries < MOST_TRIES); tries++) {
    await server?.close(0);
    server = await startRpcServer({ port: 0, implementations });
  }
  const { port } = server;
  const started = server;
  return {
    connect: () => new RpcClient({ port, peer: "The rehearsal" }),
    close: () => started.close(0),
  };
}
