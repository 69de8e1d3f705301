/**
 * A gRPC server for one machine or pod: typed handlers (`server-calls.ts`), the standard health service, and an end within a
 * limit.
 */
import { Server, ServerCredentials } from "@grpc/grpc-js";
import { systemClock, type Clock } from "../clock.ts";
import { AppError } from "../errors.ts";
import { formatRpcAddress, type RpcAddress } from "./address.ts";
import { FOLLOWING, WHOLE } from "./frame-groups.ts";
import { WholeStreamsService } from "./gen/dynamos/v1/whole_streams_pb.ts";
import { HealthService } from "./health.ts";
import { addMethod } from "./server-calls.ts";
import type { Implementation } from "./service.ts";
import { claimSocket } from "./unix-socket.ts";

/** Largest message either side takes. Chunks are far smaller; a `Start` carries grants and the schema. */
export const MAX_RPC_MESSAGE_BYTES = 4 * 1024 * 1024;

/** How a server is started, and where; port 0 takes a free one. */
export type RpcServerOptions = RpcAddress & {
  readonly implementations: readonly Implementation[];
  /** How long a client may be silent before it is asked for a sign of life, which it must give in the same time. Default: never. */
  readonly keepaliveMs?: number;
  readonly clock?: Clock;
};

/** A server that listens. */
export interface RpcServer {
  /** On 127.0.0.1; 0 with a Unix socket. */
  readonly port: number;
  readonly address: RpcAddress;
  /** Reports NOT_SERVING from now on, and serves on. */
  stopServing(): void;
  /** Reports NOT_SERVING, takes no new calls, lets those under way end for up to `limitMs` (default 5,000), then cuts them off. */
  close(limitMs?: number): Promise<void>;
}

/** Starts a server; resolves once it serves. A port that is taken: `unavailable`. */
export async function startRpcServer(options: RpcServerOptions): Promise<RpcServer> {
  const clock = options.clock ?? systemClock;
  const { keepaliveMs } = options;
  const server = new Server({
    "grpc.max_receive_message_length": MAX_RPC_MESSAGE_BYTES,
    "grpc.max_send_message_length": MAX_RPC_MESSAGE_BYTES,
    ...(keepaliveMs === undefined
      ? {}
      : { "grpc.keepalive_time_ms": keepaliveMs, "grpc.keepalive_timeout_ms": keepaliveMs }),
  });
  const health = new HealthService(options.implementations.map(({ service }) => service.typeName));
  health.addTo(server);
  const takesWhole = options.implementations.some(({ service }) => service.typeName === WholeStreamsService.typeName);
  const acceptedFrames = [FOLLOWING, ...(takesWhole ? [WHOLE] : [])];
  for (const { service, handlers } of options.implementations) {
    for (const method of service.methods) {
      const handler = handlers[method.localName];
      if (handler === undefined) throw new AppError("internal", `${service.typeName}.${method.name} has no handler.`);
      addMethod(server, method, handler, clock, acceptedFrames);
    }
  }
  const address = await bind(server, options);
  return {
    port: "port" in address ? address.port : 0,
    address,
    stopServing: () => health.stop(),
    close: async (limitMs = 5000) => {
      health.stop();
      await shutDown(server, limitMs);
    },
  };
}

async function bind(server: Server, address: RpcAddress): Promise<RpcAddress> {
  if ("port" in address) return { port: await listen(server, address) };
  await claimSocket(address.socketPath, () => listen(server, address));
  return { socketPath: address.socketPath };
}

function listen(server: Server, address: RpcAddress): Promise<number> {
  return new Promise((resolve, reject) => {
    const target = formatRpcAddress(address);
    server.bindAsync(target, ServerCredentials.createInsecure(), (error, boundPort) => {
      if (error === null) resolve(boundPort);
      else reject(new AppError("unavailable", `${target} cannot be listened on.`, { cause: error }));
    });
  });
}

async function shutDown(server: Server, limitMs: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<void>((resolve) => {
    timer = setTimeout(() => {
      server.forceShutdown();
      resolve();
    }, limitMs);
  });
  const ended = new Promise<void>((resolve, reject) => {
    server.tryShutdown((error) => (error ? reject(error) : resolve()));
  });
  try {
    await Promise.race([ended, limit]);
  } finally {
    clearTimeout(timer);
  }
}
