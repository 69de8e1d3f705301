/**
 * Holds what is under way to the agreement as it is, not only as it was at the beginning. It ends with `agreement_gone` when the
 * agreement grants less than it was started with, when the relation's time is over, and when nothing is granted any more. In the
 * last case the orchestrator's word is waited for a little: it may have composed the job anew, and says where.
 */
import { AppError, toAppError } from "../lib/errors.ts";
import { agreementKeys } from "../lib/knowledge/keys.ts";
import { OVER } from "../lib/over.ts";
import type { Grant } from "../lib/model/grant.ts";
import { evaluateGrant, type Caller, type Evaluation, type GrantPurpose } from "./authorization.ts";
import type { AgentContext } from "./context.ts";
import type { RegisteredJob } from "./jobs.ts";
import type { LiveRun, LiveRuns } from "./runs/live-runs.ts";
import { followPrefix } from "./store-watch.ts";

/** How long a refusal waits for the orchestrator's word, which comes within two seconds where there is one. */
const ORCHESTRATORS_WORD_MS = 3_000;
/** Longest wait of a timer in Node. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/** What was allowed, to whom, for what. */
export interface GuardedUse extends Evaluation {
  readonly caller: Caller;
  readonly job: RegisteredJob;
  readonly purpose: GrantPurpose;
}

/** Guards a run until it is closed; it is to be {@link followAgreement}'s too. */
export function guardGrant(context: AgentContext, run: LiveRun, use: GuardedUse): void {
  new GrantGuard(context, run, use).start();
}

/** Rechecks all guarded runs whenever this party's agreement changes, until the signal. */
export async function followAgreement(
  { knowledge, steward, clock, logger }: Pick<AgentContext, "knowledge" | "steward" | "clock" | "logger">,
  live: LiveRuns,
  signal: AbortSignal,
): Promise<void> {
  const key = agreementKeys.key({ steward });
  const follower = {
    onList: () => live.recheckAll(),
    onChange: async (change: {
      readonly type: string;
      readonly key?: string;
      readonly document?: { readonly key: string };
    }) => {
      if ((change.document?.key ?? change.key) === key) await live.recheckAll();
    },
  };
  await followPrefix(knowledge.store, key, follower, { clock, logger, signal });
}

/** Whether everything that one grant allows is allowed by another, too. */
export function isWithin(narrow: Grant, wide: Grant): boolean {
  if (narrow.minimumGroupSize < wide.minimumGroupSize || (narrow.rawRows && !wide.rawRows)) return false;
  return narrow.dataSets.every((dataSet) => {
    const other = wide.dataSets.find(({ name }) => name === dataSet.name);
    return dataSet.tables.every((table) => {
      const columns = other?.tables.find(({ name }) => name === table.name)?.columns ?? [];
      return table.columns.every(({ name }) => columns.some((column) => column.name === name));
    });
  });
}

class GrantGuard {
  readonly #context: AgentContext;
  readonly #run: LiveRun;
  readonly #use: GuardedUse;
  /** Ends the wait for the relation's end. */
  #validity = new AbortController();

  constructor(context: AgentContext, run: LiveRun, use: GuardedUse) {
    this.#context = context;
    this.#run = run;
    this.#use = use;
  }

  start(): void {
    this.#run.recheckBy(() => this.#recheck());
    this.#run.closed.addEventListener("abort", () => this.#validity.abort(OVER), { once: true });
    this.#awaitEnd(this.#use.validUntilMs);
  }

  async #recheck(): Promise<void> {
    const now = await this.#verdict();
    if (this.#run.closed.aborted) return;
    if (!(now instanceof AppError)) return this.#awaitEnd(now.validUntilMs);
    if (now.details["refusal"] === undefined) return this.#run.end(now);
    // Not waited for here: other runs are to be looked at, too.
    this.#context.clock.sleep(ORCHESTRATORS_WORD_MS, this.#run.closed).then(
      () => this.#endIfRefused(),
      () => undefined, // It has ended.
    );
  }

  /** What the agreement says now: an evaluation that covers what was granted, or why there is none. */
  async #verdict(): Promise<Evaluation | AppError> {
    const { caller, job, purpose, grant } = this.#use;
    try {
      const now = await evaluateGrant(this.#context, caller, job, purpose);
      return isWithin(grant, now.grant) ? now : grantsLess(this.#context.steward);
    } catch (error) {
      const known = toAppError(error);
      if (known.code !== "agreement_gone" && known.code !== "operation_denied") throw known;
      return known.code === "operation_denied" ? grantsLess(this.#context.steward) : known;
    }
  }

  #endIfRefused(): void {
    this.#verdict().then(
      (now) => {
        if (now instanceof AppError) this.#run.end(now);
        else this.#awaitEnd(now.validUntilMs);
      },
      // Without a store nobody can say that it is allowed.
      (error: unknown) => this.#run.end(toAppError(error)),
    );
  }

  #awaitEnd(validUntilMs: number | undefined): void {
    this.#validity.abort(OVER);
    if (validUntilMs === undefined || this.#run.closed.aborted) return;
    this.#validity = new AbortController();
    const leftMs = Math.max(0, validUntilMs - this.#context.clock.now());
    this.#context.clock.sleep(Math.min(leftMs, MAX_TIMER_MS), this.#validity.signal).then(
      () => this.#endIfRefused(),
      () => undefined, // It has ended, or its end is another by now.
    );
  }
}

function grantsLess(party: string): AppError {
  const detail = "The agreement changed, and no longer grants all that this was started with. Ask again.";
  return new AppError("agreement_gone", detail, { party });
}
