/** Watches the resident memory of local containers, since an ordinary process may not make a cgroup of its own. */
import type { Clock } from "../clock.ts";
import { toAppError, type AppError } from "../errors.ts";
import { readProcessTable, type ProcessIdentity } from "./local-processes.ts";

/** The part of one core that looking may take: with very many processes we look less often. */
const MAX_SHARE = 0.05;
/**
 * Processes that belonged to no container are read again only at every so many looks: of a machine's processes most are none of ours,
 * and reading them is most of the work. One that began since is new; a stranger cannot become a member, but its id can.
 */
const LOOKS_PER_FULL_LOOK = 25;

/** One container under watch. */
export interface WatchedContainer {
  readonly leader: ProcessIdentity;
  readonly limitBytes: number;
  /** Called once, with what it and its descendants held together. */
  readonly onExceeded: (residentBytes: number) => void;
}

/**
 * Looks at all containers of the runner at once, every `intervalMs`, as long as there are any.
 *
 * Memory that processes share is counted for each of them. A container that takes memory faster than we look goes over
 * its limit for up to one interval.
 */
export class MemoryWatch {
  readonly #containers = new Set<WatchedContainer>();
  readonly #clock: Clock;
  readonly #intervalMs: number;
  readonly #report: (error: AppError) => void;
  /** Ids of those that belonged to no container. */
  readonly #strangers = new Set<number>();
  #looks = 0;
  #isLooking = false;

  constructor(clock: Clock, intervalMs: number, report: (error: AppError) => void) {
    this.#clock = clock;
    this.#intervalMs = intervalMs;
    this.#report = report;
  }

  /** Begins to watch a container. */
  add(container: WatchedContainer): void {
    this.#containers.add(container);
    // It has been there for a moment, and is no stranger.
    this.#strangers.clear();
    if (!this.#isLooking) void this.#look();
  }

  /** Ends it. */
  remove(container: WatchedContainer): void {
    this.#containers.delete(container);
  }

  async #look(): Promise<void> {
    this.#isLooking = true;
    while (this.#containers.size > 0) {
      const beganAt = performance.now();
      try {
        await this.#compare();
      } catch (error) {
        this.#report(toAppError(error));
      }
      const tookMs = performance.now() - beganAt;
      await this.#clock.sleep(Math.max(this.#intervalMs, tookMs / MAX_SHARE));
    }
    this.#isLooking = false;
  }

  async #compare(): Promise<void> {
    if (this.#looks++ % LOOKS_PER_FULL_LOOK === 0) this.#strangers.clear();
    const table = await readProcessTable(this.#strangers);
    for (const row of table.rows) this.#strangers.add(row.pid);
    for (const container of [...this.#containers]) {
      const members = table.membersOf(container.leader);
      for (const row of members) this.#strangers.delete(row.pid);
      const residentBytes = members.reduce((sum, row) => sum + row.residentBytes, 0);
      if (residentBytes <= container.limitBytes) continue;
      this.#containers.delete(container);
      container.onExceeded(residentBytes);
    }
  }
}
