/** What `/ready` tells of the ports behind a deployable. */
import { toAppError } from "../errors.ts";
import type { DependencyStatus } from "./server.ts";

/** Something that can prove that it answers. */
interface Pingable {
  ping(): Promise<void>;
}

/** Whether knowledge store and message bus answer. */
export async function portsStatus(ports: {
  readonly store: Pingable;
  readonly bus: Pingable;
}): Promise<readonly DependencyStatus[]> {
  return Promise.all([statusOf("knowledge store", ports.store), statusOf("message bus", ports.bus)]);
}

async function statusOf(name: string, port: Pingable): Promise<DependencyStatus> {
  try {
    await port.ping();
    return { name, ok: true };
  } catch (thrown) {
    return { name, ok: false, detail: toAppError(thrown).message };
  }
}
