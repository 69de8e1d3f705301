/**
 * A chain element as another language would have it: by the wire contract alone (docs/add-a-microservice.md, "In another
 * language"), without the SDK. It hands on the frames of its run as they come.
 */
import { MicroserviceService } from "../../../lib/rpc/gen/dynamos/v1/microservice_pb.ts";
import { SidecarService } from "../../../lib/rpc/gen/dynamos/v1/sidecar_pb.ts";
import { RpcClient } from "../../../lib/rpc/client.ts";
import { startRpcServer } from "../../../lib/rpc/server.ts";
import { implement } from "../../../lib/rpc/service.ts";

const { DESIGNATED_GRPC_PORT, SIDECAR_PORT, LAST, DYNAMOS_CHAIN_CONCURRENCY = "1" } = process.env;
const port = Number(DESIGNATED_GRPC_PORT);
const isLast = LAST === "1";
const next = new RpcClient({
  port: isLast ? Number(SIDECAR_PORT) : port + 1,
  connectLimitMs: 20_000,
  peer: "The next element",
});
const method = isLast ? SidecarService.method.output : MicroserviceService.method.process;

let end: () => void = () => undefined;
const ended = new Promise<void>((resolve) => (end = resolve));
// A persistent chain is told to stop; another has served its one run.
process.once("SIGTERM", () => end());
const server = await startRpcServer({
  port,
  implementations: [
    implement(MicroserviceService, {
      process: async (frames, { signal }) => {
        try {
          return await next.stream(method, frames, { signal });
        } finally {
          if (Number(DYNAMOS_CHAIN_CONCURRENCY) === 1) end();
        }
      },
    }),
  ],
});
await ended;
await server.close();
next.close();
