/**
 * Which instance of this party's agent provides which stream. A third party's request may come more than once: sent again, or
 * delivered again since its first delivery was not settled, be it that who had it died, or only lost its connection. Each stream
 * is provided by one instance at a time, under a claim in the knowledge store; whoever gets the request again holds it, unsettled,
 * until the first one has ended, and provides the stream anew only where that one died in the middle.
 *
 * A stream's name is the third party's run that takes it. Its lives are counted, so that what each sends can be told apart.
 */
import { Value } from "@sinclair/typebox/value";
import type { Settlement } from "../../lib/bus/message-bus.ts";
import type { Clock } from "../../lib/clock.ts";
import { AppError, toAppError } from "../../lib/errors.ts";
import { providedStreamKeys } from "../../lib/knowledge/keys.ts";
import type { KnowledgeStore, Lease, StoredDocument } from "../../lib/knowledge/knowledge-store.ts";
import { StreamClaim } from "../../lib/messages.ts";
import type { Siblings } from "./siblings.ts";

/** How often it is looked whether another instance has ended. */
const LOOK_MS = 500;
/** A claim that cannot be taken away at first is tried again so often, each time after twice as long. */
const RELEASE_TRIES = 6;
const FIRST_PAUSE_MS = 200;

/** How streams are claimed. */
export interface ProvidedStreamsOptions {
  readonly store: KnowledgeStore;
  readonly party: string;
  readonly instance: string;
  /** This instance's lease; undefined while it is not registered. */
  readonly lease: () => Lease | undefined;
  readonly siblings: Pick<Siblings, "isLiving">;
  readonly clock: Clock;
  /** Hears of claims that could not be released; they end with the lease. */
  readonly report: (error: AppError) => void;
}

/** A delivery of a request for a stream. */
export interface StreamRequest {
  /** The third party's run. */
  readonly runName: string;
  /** The data request that it is for, of which there may be earlier and later runs. */
  readonly dataRequest: string;
  /** Until when the third party waits: the later of two runs for one data request waits longer. */
  readonly deadlineMs: number;
  /** How often the request was delivered before. */
  readonly redeliveryCount: number;
  /** Ends the stream, since a later run takes its place. */
  readonly supersede: () => void;
}

/** Provides the stream; its frames count as of this life. */
export type ProvideStream = (life: number) => Promise<Settlement>;

interface Held {
  readonly value: StreamClaim;
  revision: number;
}

/** See the file comment. */
export class ProvidedStreams {
  readonly #options: ProvidedStreamsOptions;
  /** Under way in this process; each with its outcome. */
  readonly #here = new Map<string, { readonly request: StreamRequest; readonly outcome: Promise<Settlement> }>();
  readonly #held = new Map<string, Held>();

  constructor(options: ProvidedStreamsOptions) {
    this.#options = options;
  }

  /**
   * Provides a stream, or waits for whoever does. Resolves with what becomes of the delivery.
   *
   * @param signal ends the waiting, and what is provided listens to it, too: nobody wants the stream any more.
   * @throws AppError `unavailable` while this instance is not registered, and as the store does: the delivery is to be retried.
   */
  provide(request: StreamRequest, signal: AbortSignal, provideStream: ProvideStream): Promise<Settlement> {
    const { runName } = request;
    // Nothing is awaited before it is entered: of two deliveries at once the second one finds the first.
    const here = this.#here.get(runName);
    if (here !== undefined) return here.outcome;
    for (const { request: other } of this.#here.values()) {
      if (other.dataRequest === request.dataRequest && other.deadlineMs < request.deadlineMs) other.supersede();
    }
    const outcome = this.#provideOrWait(request, signal, provideStream).finally(() => this.#here.delete(runName));
    this.#here.set(runName, { request, outcome });
    return outcome;
  }

  /** Puts the claims under a new lease, the old one being lost. One that another instance has taken since stays with that. */
  async restore(lease: Lease): Promise<void> {
    for (const [key, held] of this.#held) {
      try {
        held.revision = await this.#options.store.put(key, held.value, { lease, ifRevision: 0 });
      } catch (error) {
        if (toAppError(error).code !== "precondition_failed") throw error;
      }
    }
  }

  async #provideOrWait(
    { runName, redeliveryCount }: StreamRequest,
    signal: AbortSignal,
    provideStream: ProvideStream,
  ): Promise<Settlement> {
    const { store, party, instance, siblings } = this.#options;
    const key = providedStreamKeys.key({ party, runName });
    let life = redeliveryCount;
    let waitedFor: string | undefined;
    for (;;) {
      const stored = await store.get(key);
      const claim = stored === undefined ? undefined : toClaim(stored);
      if (claim !== undefined) life = Math.max(life, claim.life + 1);
      if (claim !== undefined && isAtWork(claim, instance) && (await siblings.isLiving(claim.instance))) {
        waitedFor = claim.instance;
        if (!(await this.#pause(signal))) return "accept";
        continue;
      }
      // It ended what it had claimed, unless it died.
      if (claim === undefined && waitedFor !== undefined && (await siblings.isLiving(waitedFor))) return "accept";
      if (!(await this.#claim(key, { instance, life }, stored?.revision ?? 0))) continue;
      let settlement: Settlement = "retry";
      try {
        settlement = await provideStream(life);
        return settlement;
      } finally {
        void this.#release(key, settlement);
      }
    }
  }

  /** False when another instance was faster. */
  async #claim(key: string, value: StreamClaim, ifRevision: number): Promise<boolean> {
    const lease = this.#options.lease();
    if (lease === undefined) throw new AppError("unavailable", "This instance of the agent is not registered.");
    try {
      this.#held.set(key, { value, revision: await this.#options.store.put(key, value, { lease, ifRevision }) });
      return true;
    } catch (error) {
      const { code } = toAppError(error);
      if (code === "precondition_failed") return false;
      // The lease has just ended, and is being made anew.
      if (code === "not_found") throw new AppError("unavailable", "The agent's lease was lost.", { cause: error });
      throw error;
    }
  }

  /** Whoever waits for the claim to go would wait as long as this instance lives: so it is tried for a while. */
  async #release(key: string, settlement: Settlement): Promise<void> {
    const held = this.#held.get(key);
    this.#held.delete(key);
    if (held === undefined) return;
    const { store, clock, report, lease: leaseNow } = this.#options;
    for (let tries = 1; ; tries++) {
      const lease = leaseNow();
      const ifRevision = held.revision;
      try {
        if (settlement !== "retry") await store.delete(key, { ifRevision });
        else if (lease !== undefined) await store.put(key, { ...held.value, isAbandoned: true }, { lease, ifRevision });
        return;
      } catch (error) {
        const failure = toAppError(error);
        // It went with a lost lease, and another instance may have its own by now.
        if (failure.code === "precondition_failed" || failure.code === "not_found") return;
        if (failure.code !== "unavailable" || tries === RELEASE_TRIES) return report(failure);
        await clock.sleep(FIRST_PAUSE_MS * 2 ** tries);
      }
    }
  }

  /** False when the signal ended it. */
  async #pause(signal: AbortSignal): Promise<boolean> {
    await this.#options.clock.sleep(LOOK_MS, signal).catch(() => undefined); // The signal is asked below.
    return !signal.aborted;
  }
}

/** Whether somebody else says that he provides it. */
function isAtWork({ instance, isAbandoned }: StreamClaim, self: string): boolean {
  return instance !== self && isAbandoned !== true;
}

function toClaim({ key, value }: StoredDocument): StreamClaim {
  if (Value.Check(StreamClaim, value)) return value;
  throw new AppError("configuration_invalid", `The record ${key} in the knowledge store is malformed.`);
}
