/**
 * Which instance of this party's agent runs a data request: a claim in the knowledge store, made by compare-and-swap under the
 * instance's lease, so that of two instances that are asked at once one runs it and the other passes the question on. A claim
 * goes when nothing is kept under it any more, or with its instance.
 *
 * State of a claim here: absent → being taken → held (in `#held`, used by callers and perhaps by a kept answer) → being
 * released → absent. Steps on one request follow one another (`#steps`).
 */
import { Value } from "@sinclair/typebox/value";
import { AppError, toAppError } from "../../lib/errors.ts";
import { agentRequestKeys } from "../../lib/knowledge/keys.ts";
import type { KnowledgeStore, Lease } from "../../lib/knowledge/knowledge-store.ts";
import { RequestClaim } from "../../lib/messages.ts";

/** Others may take and release it meanwhile, but not for ever. */
const MAX_ROUNDS = 10;

/** A request as it is claimed. */
export interface ClaimedRequest {
  readonly user: string;
  readonly requestId: string;
}

/** Somebody else's claim. */
export interface ForeignClaim {
  readonly kind: "foreign";
  readonly owner: RequestClaim;
  /** To be named by who takes it over. */
  readonly revision: number;
}

/** This instance's claim, in use until `settle`. */
export interface OwnClaim {
  readonly kind: "own";
  /** To be called once, when the run has been entered, or was not: without a kept answer the claim goes. */
  settle(): void;
}

/** How claims are made. */
export interface RequestClaimsOptions {
  readonly store: KnowledgeStore;
  readonly party: string;
  readonly instance: string;
  /** Where this instance is reached; asked when a claim is made. */
  readonly instanceUrl: () => string;
  /** This instance's lease; undefined while it is not registered. */
  readonly lease: () => Lease | undefined;
  /** Whether a run or an answer is kept under this name. */
  readonly isKept: (request: ClaimedRequest) => boolean;
  /** Hears of claims that could not be released; they end with the lease. */
  readonly report: (error: AppError) => void;
}

interface Held {
  readonly request: ClaimedRequest;
  revision: number;
  uses: number;
}

/** See the file comment. */
export class RequestClaims {
  readonly #options: RequestClaimsOptions;
  readonly #held = new Map<string, Held>();
  /** The last step on each key. */
  readonly #steps = new Map<string, Promise<unknown>>();

  constructor(options: RequestClaimsOptions) {
    this.#options = options;
  }

  /**
   * This instance's claim, made where nobody has one; else whose it is.
   *
   * @throws AppError `unavailable` while this instance is not registered, and as the store does.
   */
  take(request: ClaimedRequest): Promise<OwnClaim | ForeignClaim> {
    return this.#inTurn(request, async (key) => {
      const held = this.#held.get(key);
      if (held !== undefined) return this.#use(key, held);
      for (let round = 1; ; round++) {
        const stored = await this.#options.store.get(key);
        if (stored !== undefined && !this.#isOwn(stored.value)) {
          return { kind: "foreign", owner: toClaim(key, stored.value), revision: stored.revision };
        }
        // An own one that is not held is left from a write whose outcome was not heard.
        const made = await this.#write(key, request, stored?.revision ?? 0);
        if (made !== undefined) return this.#use(key, made);
        if (round >= MAX_ROUNDS) throw contended();
      }
    });
  }

  /** Takes a claim whose owner cannot be reached; false when it has changed or gone meanwhile. Taken, it is used with {@link take}. */
  takeOver(request: ClaimedRequest, { revision }: ForeignClaim): Promise<boolean> {
    return this.#inTurn(request, async (key) => (await this.#write(key, request, revision)) !== undefined);
  }

  /** To be called when nothing is kept under a name any more. */
  release(request: ClaimedRequest): void {
    const step = this.#inTurn(request, async (key) => {
      const held = this.#held.get(key);
      if (held === undefined || held.uses > 0 || this.#options.isKept(request)) return;
      this.#held.delete(key);
      await this.#options.store.delete(key, { ifRevision: held.revision }).catch(ignoreOthers);
    });
    step.catch((error: unknown) => this.#options.report(toAppError(error)));
  }

  /** Puts the claims under a new lease, the old one being lost. One that is another instance's by now is its own from then on. */
  async restore(lease: Lease): Promise<void> {
    for (const [key, held] of [...this.#held]) {
      try {
        held.revision = await this.#options.store.put(key, this.#value(), { lease, ifRevision: 0 });
      } catch (error) {
        if (toAppError(error).code !== "precondition_failed") throw error;
        this.#held.delete(key);
      }
    }
  }

  #use(key: string, held: Held): OwnClaim {
    held.uses += 1;
    return {
      kind: "own",
      settle: () => {
        held.uses -= 1;
        if (this.#held.get(key) === held && held.uses === 0) this.release(held.request);
      },
    };
  }

  /** Undefined when the key's revision is another. */
  async #write(key: string, request: ClaimedRequest, ifRevision: number): Promise<Held | undefined> {
    const lease = this.#options.lease();
    if (lease === undefined) {
      throw new AppError("unavailable", "This instance of the agent is not registered at the moment. Try again.", {
        details: { retryAfterSeconds: 1 },
      });
    }
    try {
      const revision = await this.#options.store.put(key, this.#value(), { lease, ifRevision });
      const held = { request, revision, uses: 0 };
      this.#held.set(key, held);
      return held;
    } catch (error) {
      const { code } = toAppError(error);
      if (code === "precondition_failed") return undefined;
      // The lease has just ended, and is being made anew.
      if (code === "not_found")
        throw new AppError("unavailable", "The agent's lease was lost. Try again.", { cause: error });
      throw error;
    }
  }

  #value(): RequestClaim {
    return { instance: this.#options.instance, instanceUrl: this.#options.instanceUrl() };
  }

  #isOwn(value: unknown): boolean {
    return Value.Check(RequestClaim, value) && value.instance === this.#options.instance;
  }

  async #inTurn<Result>({ user, requestId }: ClaimedRequest, step: (key: string) => Promise<Result>): Promise<Result> {
    const key = agentRequestKeys.key({ party: this.#options.party, userName: user, requestId });
    const before = this.#steps.get(key) ?? Promise.resolve();
    const mine = before.then(
      () => step(key),
      () => step(key),
    );
    this.#steps.set(key, mine);
    try {
      return await mine;
    } finally {
      if (this.#steps.get(key) === mine) this.#steps.delete(key);
    }
  }
}

function toClaim(key: string, value: unknown): RequestClaim {
  if (Value.Check(RequestClaim, value)) return value;
  throw new AppError("configuration_invalid", `The record ${key} in the knowledge store is malformed.`);
}

function contended(): AppError {
  return new AppError(
    "conflict",
    "Other instances of the agent take and release this request at the same time. Try again.",
  );
}

/** A claim that went with a lost lease, or that another instance took over, is not ours to delete. */
function ignoreOthers(error: unknown): void {
  if (toAppError(error).code !== "precondition_failed") throw error;
}
