/**
 * Starts what has ended again, as a cluster would: after a while, and after a longer one each time it does not come up. Whoever
 * kills a service says so before, so that an end that nobody asked for is known as such.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Exchange } from "../../cli/exchange/exchange.ts";
import type { RunningService } from "../../cli/exchange/service-process.ts";
import { toAppError } from "../../lib/errors.ts";
import type { History } from "./history.ts";

/** What ended by itself is started again after this. */
const DEFAULT_DOWN_MS = 1_000;
const LONGEST_DOWN_MS = 5_000;
/** A service that could not be started for so long never will be. */
const GIVE_UP_MS = 90_000;

/** See the file comment. */
export class Supervisor {
  readonly #exchange: Exchange;
  readonly #history: History;
  readonly #expected = new Map<number, number>();
  readonly #restarting = new Map<string, Promise<void>>();
  readonly #closing = new AbortController();

  constructor(exchange: Exchange, history: History) {
    this.#exchange = exchange;
    this.#history = history;
    for (const service of exchange.services.values()) this.#watch(service);
  }

  /** The living process of a name. */
  living(name: string): RunningService | undefined {
    const service = this.#exchange.services.get(name);
    return service === undefined || service.hasEnded() ? undefined : service;
  }

  /** Names of all services, running or not. */
  names(): readonly string[] {
    return [...this.#exchange.services.keys()];
  }

  /** Kills one hard; it is started again after `downMs`. Resolves when it is back, with whether there was one to kill. */
  async kill(name: string, downMs: number): Promise<boolean> {
    const service = this.living(name);
    if (service === undefined) return false;
    this.#expected.set(service.pid, downMs);
    service.kill("SIGKILL");
    await service.exited;
    // The exit's own listener is called first.
    await this.#restarting.get(name);
    return true;
  }

  /** Resolves when all run again. */
  async settle(): Promise<void> {
    while (this.#restarting.size > 0) await Promise.all(this.#restarting.values());
  }

  /** From now on what ends stays so. */
  async close(): Promise<void> {
    this.#closing.abort();
    await this.settle();
  }

  #watch(service: RunningService): void {
    void service.exited.then(({ code, signal }) => {
      if (this.#closing.signal.aborted) return;
      const downMs = this.#expected.get(service.pid);
      this.#expected.delete(service.pid);
      const how = signal ?? `code ${String(code)}`;
      this.#history.add({ kind: "exited", service: service.name, how, isExpected: downMs !== undefined });
      const restarting = this.#restart(service.name, downMs ?? DEFAULT_DOWN_MS).finally(() =>
        this.#restarting.delete(service.name),
      );
      this.#restarting.set(service.name, restarting);
    });
  }

  async #restart(name: string, downMs: number): Promise<void> {
    const beganMs = this.#history.now();
    for (let waitMs = downMs; ; waitMs = Math.min(2 * waitMs + 500, LONGEST_DOWN_MS)) {
      await sleep(waitMs);
      if (this.#closing.signal.aborted) return;
      try {
        this.#watch(await this.#exchange.start(name));
        this.#history.add({ kind: "restarted", service: name, afterMs: this.#history.now() - beganMs });
        return;
      } catch (thrown) {
        const error = toAppError(thrown).message;
        if (this.#history.now() - beganMs < GIVE_UP_MS) continue;
        this.#history.add({ kind: "restartFailed", service: name, error });
        return;
      }
    }
  }
}
