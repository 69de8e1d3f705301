/**
 * Watches what plans stand on (agreements, archetypes, who is online) and has the jobs that a change touches decided again
 * (`recomposition.ts`). Every replica watches; compare-and-swap lets one of them act, and another complete what one that died
 * had begun.
 */
import { toAppError } from "../lib/errors.ts";
import { documentName, documentPrefix } from "../lib/knowledge/knowledge-base.ts";
import { onlineKeys, orchestratorOnlineKeys } from "../lib/knowledge/keys.ts";
import type { StoreChange } from "../lib/knowledge/knowledge-store.ts";
import { jobNameForLogs } from "../lib/model/names.ts";
import type { OrchestratorContext } from "./context.ts";
import { partiesOf, type Plan } from "./plans.ts";
import { reconsiderJob } from "./recomposition.ts";

const FIRST_RETRY_MS = 200;
const LONGEST_RETRY_MS = 5_000;
/** Attempts at one job before it waits for the next change; agents enforce their agreements meanwhile. */
const MAX_ATTEMPTS = 6;
/** Jobs reconsidered at a time. */
const CONCURRENCY = 8;
/** How often jobs are looked for whose composition nobody ends: its replica lives, but the store was away from it. */
const SWEEP_MS = 30_000;

type IsTouched = (plan: Plan) => boolean;

/** Runs from `start` until its signal. */
export class PolicyUpdates {
  readonly #context: OrchestratorContext;
  readonly #signal: AbortSignal;
  /** Jobs to look at; one under way that is touched again is looked at again. */
  readonly #waiting = new Set<string>();
  readonly #underWay = new Map<string, Promise<void>>();

  constructor(context: OrchestratorContext, signal: AbortSignal) {
    this.#context = context;
    this.#signal = signal;
  }

  /** Watches until the signal; resolves when all that was begun has ended. A watch that breaks begins again from a list. */
  async run(): Promise<void> {
    await Promise.all([
      this.#watch(documentPrefix("agreements"), always, (change) => touchedByAgreement(keyOf(change))),
      this.#watch(documentPrefix("archetypes"), always, () => always),
      this.#watch(onlineKeys.prefix(), isUnsettled, (change) => touchedByArrival(change)),
      this.#watch(orchestratorOnlineKeys.prefix(), isComposing, (change) => leftBehindBy(change)),
      this.#sweep(),
    ]);
    await Promise.all(this.#underWay.values());
  }

  /** @param missed what may have changed, for a plan, while nobody watched. */
  async #watch(
    prefix: string,
    missed: IsTouched,
    touches: (change: StoreChange) => IsTouched | undefined,
  ): Promise<void> {
    const { knowledge, logger, clock } = this.#context;
    let waitMs = FIRST_RETRY_MS;
    while (!this.#signal.aborted) {
      try {
        const { revision } = await knowledge.store.list(prefix);
        await this.#reconsider(missed);
        waitMs = FIRST_RETRY_MS;
        for await (const change of knowledge.store.watch(prefix, revision, this.#signal)) {
          const isTouched = touches(change);
          if (isTouched !== undefined) await this.#reconsider(isTouched);
        }
      } catch (thrown) {
        if (this.#signal.aborted) return;
        logger.warn({ error: toAppError(thrown), waitMs }, "the watch for policy updates broke; watching again");
        await clock.sleep(waitMs, this.#signal).catch(ignoreAbort);
        waitMs = Math.min(waitMs * 2, LONGEST_RETRY_MS);
      }
    }
  }

  async #sweep(): Promise<void> {
    const { clock, logger } = this.#context;
    while (!this.#signal.aborted) {
      await clock.sleep(SWEEP_MS, this.#signal).catch(ignoreAbort);
      await this.#reconsider(isComposing).catch((thrown: unknown) => {
        if (!this.#signal.aborted)
          logger.warn({ error: toAppError(thrown) }, "unended compositions cannot be looked for");
      });
    }
  }

  async #reconsider(isTouched: IsTouched): Promise<void> {
    for (const { document } of await this.#context.plans.list()) {
      if (isTouched(document)) this.#waiting.add(document.jobName);
    }
    this.#startWaiting();
  }

  #startWaiting(): void {
    for (const jobName of this.#waiting) {
      if (this.#underWay.size >= CONCURRENCY || this.#signal.aborted) return;
      if (this.#underWay.has(jobName)) continue;
      this.#waiting.delete(jobName);
      const work = this.#attempt(jobName).finally(() => {
        this.#underWay.delete(jobName);
        this.#startWaiting();
      });
      this.#underWay.set(jobName, work);
    }
  }

  async #attempt(jobName: string): Promise<void> {
    const { clock, logger } = this.#context;
    for (let attempt = 1, waitMs = FIRST_RETRY_MS; !this.#signal.aborted; attempt++, waitMs *= 2) {
      try {
        return await reconsiderJob(jobName, this.#context, this.#signal);
      } catch (thrown) {
        if (this.#signal.aborted) return;
        const error = toAppError(thrown);
        logger.warn({ error, job: jobNameForLogs(jobName), attempt }, "a job could not be decided again");
        if (attempt >= MAX_ATTEMPTS) return;
        await clock.sleep(waitMs, this.#signal).catch(ignoreAbort);
      }
    }
  }
}

function keyOf(change: StoreChange): string {
  return change.type === "put" ? change.document.key : change.key;
}

function touchedByAgreement(key: string): IsTouched | undefined {
  const steward = documentName("agreements", key);
  if (steward === undefined) return undefined;
  return (plan) => [...plan.approved, ...plan.acceptedComputeProviders, ...partiesOf(plan)].includes(steward);
}

/** An agent that goes away moves nothing: it may be back in a moment. One that comes back may join, or save, a job. */
function touchedByArrival(change: StoreChange): IsTouched | undefined {
  const party = onlineKeys.parse(keyOf(change))?.party;
  if (change.type === "delete" || party === undefined) return undefined;
  return (plan) =>
    plan.offline.includes(party) ||
    (plan.state === "stopped" && plan.approved.includes(party)) ||
    (plan.state === "stopped" && plan.acceptedComputeProviders.includes(party));
}

/** A replica that died leaves the compositions that it was at. */
function leftBehindBy(change: StoreChange): IsTouched | undefined {
  const instance = orchestratorOnlineKeys.parse(keyOf(change))?.instanceId;
  if (change.type !== "delete" || instance === undefined) return undefined;
  return (plan) => isComposing(plan) && plan.composer === instance;
}

function isComposing({ state }: Plan): boolean {
  return state === "composing";
}

function isUnsettled({ state }: Plan): boolean {
  return state !== "ready";
}

function always(): boolean {
  return true;
}

function ignoreAbort(thrown: unknown): void {
  if (toAppError(thrown).code !== "cancelled") throw thrown;
}
