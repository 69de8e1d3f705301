/** What publisher, consumers and single calls share of the connection to a messaging sidecar, and how it is tried again. */
import type { Clock } from "../clock.ts";
import { AppError } from "../errors.ts";
import type { RpcClient } from "../rpc/client.ts";

/** A connection, which `lib/rpc` makes anew by itself when it broke. */
export interface SidecarConnection {
  readonly client: RpcClient;
  /** For error messages: which sidecar, where. */
  readonly name: string;
  readonly clock: Clock;
  /** How long a call waits for the sidecar. */
  readonly deadlineMs: number;
  /** How long consumers try to come back. */
  readonly giveUpAfterMs: number;
}

/** A sidecar that gives no sign of life for twice as long has gone. */
export const KEEPALIVE_MS = 15_000;

const FIRST_WAIT_MS = 20;
const LONGEST_WAIT_MS = 2000;

/** Waits between tries: twice as long each time, and by chance up to half of it shorter. */
export class Backoff {
  readonly #clock: Clock;
  #nextMs = FIRST_WAIT_MS;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Fails with the signal's reason. */
  async wait(signal?: AbortSignal): Promise<void> {
    const ms = this.#nextMs * (1 - Math.random() / 2);
    this.#nextMs = Math.min(LONGEST_WAIT_MS, this.#nextMs * 2);
    await this.#clock.sleep(ms, signal);
  }

  /** The next wait is a short one again. */
  reset(): void {
    this.#nextMs = FIRST_WAIT_MS;
  }
}

/** Whether an error of `lib/rpc` means that the sidecar went away, or was not there: the bus itself never says so. */
export function isConnectionLoss(error: AppError): boolean {
  return error.code === "job_failed" || error.code === "cancelled";
}

/** What the port says of a sidecar that cannot be reached. */
export function unreachable(name: string, limitMs: number, cause: AppError): AppError {
  return new AppError("unavailable", `${name} did not answer within ${limitMs} ms.`, { cause });
}

/** What the port says of a call that the sidecar's going broke off. */
export function brokenOff(name: string, cause: AppError): AppError {
  return new AppError("unavailable", `${name} went away before it had answered.`, { cause });
}
