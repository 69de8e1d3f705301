/** What `/ready` tells: whether store and bus answer. */
import { toAppError } from "../lib/errors.ts";
import type { DependencyStatus } from "../lib/http/server.ts";

/** Something that can prove that it answers. */
interface Pingable {
  ping(): Promise<void>;
}

/** The state of both ports. */
export async function dependencyStatus(ports: {
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
