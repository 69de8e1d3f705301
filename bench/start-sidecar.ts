/** Starts messaging sidecars for measurements. */
import { join } from "node:path";
import { startService, type RunningService } from "../cli/exchange/service-process.ts";

/** A messaging sidecar on a bus, with socket and log in a folder; its `url` is what the bus is opened with. */
export function startSidecar(bus: string, folder: string, name: string): Promise<RunningService> {
  return startService({
    name,
    program: "sidecar/messaging-main",
    environment: { DYNAMOS_BUS: bus, DYNAMOS_SIDECAR_LISTEN: `unix:${join(folder, `${name}.sock`)}` },
    logFile: join(folder, `${name}.log`),
    readyMs: 30_000,
  });
}
