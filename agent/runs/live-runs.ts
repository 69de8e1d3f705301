/** The runs that live in this process, so that a cancel or a changed agreement reaches them. Dies with the process, as they do. */
import { toAppError, type AppError } from "../../lib/errors.ts";
import { OVER } from "../../lib/over.ts";

/** What a run belongs to. Request ids are the clients' to choose: only together with the job are they unique. */
export interface RunOwner {
  readonly requestId: string;
  readonly jobName: string;
  /** Of a provided stream: the third party's run that takes it. */
  readonly returnAddress?: string;
}

/** A run's entry; close it when the run has ended. */
export interface LiveRun {
  /** Aborted when somebody ends the run; its reason is an AppError that says why. */
  readonly signal: AbortSignal;
  /** Aborted by {@link LiveRun.close}. */
  readonly closed: AbortSignal;
  /** Ends it. */
  end(reason: AppError): void;
  /** What {@link LiveRuns.recheckAll} asks: it looks whether the run is still allowed, and ends it where not. */
  recheckBy(recheck: () => Promise<void>): void;
  close(): void;
}

interface Entry {
  /** Absent: another instance's run, whose answer is passed through here. */
  readonly owner: RunOwner | undefined;
  readonly abort: AbortController;
  recheck: (() => Promise<void>) | undefined;
  /** Something changed before it could be asked. */
  isRecheckDue: boolean;
}

/** Runs by request and by job. */
export class LiveRuns {
  readonly #runs = new Set<Entry>();
  /** What runs that have ended still clear up. */
  readonly #clearing = new Set<Promise<void>>();
  readonly #onIdle = new Set<() => void>();
  #isStopping = false;

  /** How many live now. */
  get count(): number {
    return this.#runs.size;
  }

  /** Whether {@link LiveRuns.stop} was called: what ended since then may be done by another instance. */
  get isStopping(): boolean {
    return this.#isStopping;
  }

  /**
   * Enters a run.
   *
   * @param outer ends the run too: its caller's or its deadline's signal.
   */
  enter({ requestId, jobName, returnAddress }: RunOwner, outer: AbortSignal): LiveRun {
    return this.#enter({ requestId, jobName, ...(returnAddress === undefined ? {} : { returnAddress }) }, outer);
  }

  /** Enters an answer that is passed through: only the end of this process ends it; cancels reach it where it is made. */
  enterForeign(outer: AbortSignal): Pick<LiveRun, "signal" | "close"> {
    return this.#enter(undefined, outer);
  }

  #enter(owner: RunOwner | undefined, outer: AbortSignal): LiveRun {
    const abort = new AbortController();
    const closed = new AbortController();
    const run: Entry = { owner, abort, recheck: undefined, isRecheckDue: false };
    const follow = (): void => abort.abort(outer.reason);
    if (outer.aborted) follow();
    else outer.addEventListener("abort", follow, { once: true });
    this.#runs.add(run);
    return {
      signal: abort.signal,
      closed: closed.signal,
      end: (reason) => abort.abort(reason),
      recheckBy: (recheck) => {
        run.recheck = recheck;
        if (run.isRecheckDue) recheck().catch((error: unknown) => abort.abort(toAppError(error)));
      },
      close: () => {
        closed.abort(OVER);
        outer.removeEventListener("abort", follow);
        this.#runs.delete(run);
        this.#tellIfIdle();
      },
    };
  }

  /**
   * Has every run look whether it is still allowed.
   *
   * @throws AggregateError where some could not find out.
   */
  async recheckAll(): Promise<void> {
    for (const run of this.#runs) run.isRecheckDue ||= run.recheck === undefined;
    const results = await Promise.allSettled([...this.#runs].map(async (run) => run.recheck?.()));
    const failures = results.flatMap((result) => (result.status === "rejected" ? [result.reason as unknown] : []));
    if (failures.length > 0) throw new AggregateError(failures, "Some runs could not be held against the agreement.");
  }

  /** Ends the runs of one request, with a return address only those for it; returns how many there were. */
  cancelRequest({ requestId, jobName, returnAddress }: RunOwner, reason: AppError): number {
    return this.#cancel(
      ({ owner }) =>
        owner?.requestId === requestId &&
        owner.jobName === jobName &&
        (returnAddress === undefined || owner.returnAddress === returnAddress),
      reason,
    );
  }

  /** Ends the runs of one job; returns how many there were. */
  cancelJob(jobName: string, reason: AppError): number {
    return this.#cancel(({ owner }) => owner?.jobName === jobName, reason);
  }

  /** Takes what a run leaves to be done behind it: it lives until then, but cannot be ended any more. The work does not fail. */
  afterwards(work: Promise<void>): void {
    this.#clearing.add(work);
    void work.finally(() => {
      this.#clearing.delete(work);
      this.#tellIfIdle();
    });
  }

  /** Resolves when no run lives, or when the limit has passed. */
  async idle(limitMs: number): Promise<void> {
    if (this.#isIdle) return;
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

  get #isIdle(): boolean {
    return this.#runs.size === 0 && this.#clearing.size === 0;
  }

  #tellIfIdle(): void {
    if (this.#isIdle) for (const done of [...this.#onIdle]) done();
  }

  /** Ends all of them, since this process ends; see {@link LiveRuns.isStopping}. */
  stop(reason: AppError): number {
    this.#isStopping = true;
    return this.#cancel(() => true, reason);
  }

  #cancel(matches: (run: Entry) => boolean, reason: AppError): number {
    const found = [...this.#runs].filter(matches);
    for (const run of found) run.abort.abort(reason);
    return found.length;
  }
}
