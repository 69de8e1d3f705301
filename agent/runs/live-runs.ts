/** The runs that live in this process, so that a cancel or a changed agreement reaches them. Dies with the process, as they do. */
import type { AppError } from "../../lib/errors.ts";

/** What a run belongs to. Request ids are the clients' to choose: only together with the job are they unique. */
export interface RunOwner {
  readonly requestId: string;
  readonly jobName: string;
}

/** A run's entry; close it when the run has ended. */
export interface LiveRun {
  /** Aborted when somebody ends the run; its reason is an AppError that says why. */
  readonly signal: AbortSignal;
  close(): void;
}

/** Runs by request and by job. */
export class LiveRuns {
  readonly #runs = new Set<RunOwner & { readonly abort: AbortController }>();

  readonly #onIdle = new Set<() => void>();

  /** How many live now. */
  get count(): number {
    return this.#runs.size;
  }

  /**
   * Enters a run.
   *
   * @param outer ends the run too: its caller's or its deadline's signal.
   */
  enter(owner: RunOwner, outer: AbortSignal): LiveRun {
    const abort = new AbortController();
    const run = { requestId: owner.requestId, jobName: owner.jobName, abort };
    const follow = (): void => abort.abort(outer.reason);
    if (outer.aborted) follow();
    else outer.addEventListener("abort", follow, { once: true });
    this.#runs.add(run);
    return {
      signal: abort.signal,
      close: () => {
        outer.removeEventListener("abort", follow);
        this.#runs.delete(run);
        if (this.#runs.size === 0) for (const done of [...this.#onIdle]) done();
      },
    };
  }

  /** Ends the runs of one request, `except` one of them; returns how many there were. */
  cancelRequest({ requestId, jobName }: RunOwner, reason: AppError, except?: LiveRun): number {
    return this.#cancel(
      (run) => run.requestId === requestId && run.jobName === jobName && run.abort.signal !== except?.signal,
      reason,
    );
  }

  /** Ends the runs of one job; returns how many there were. */
  cancelJob(jobName: string, reason: AppError): number {
    return this.#cancel((run) => run.jobName === jobName, reason);
  }

  /** Resolves when no run lives, or when the limit has passed. */
  async idle(limitMs: number): Promise<void> {
    if (this.#runs.size === 0) return;
    await new Promise<void>((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        this.#onIdle.delete(done);
        resolve();
      };
      const timer = setTimeout(done, limitMs);
      this.#onIdle.add(done);
    });
  }

  /** Ends all of them. */
  cancelAll(reason: AppError): number {
    return this.#cancel(() => true, reason);
  }

  #cancel(matches: (run: RunOwner & { readonly abort: AbortController }) => boolean, reason: AppError): number {
    const found = [...this.#runs].filter(matches);
    for (const run of found) run.abort.abort(reason);
    return found.length;
  }
}
