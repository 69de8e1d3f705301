/** Tokens of a job (decision 18): what they say follows from its plan. */
import type { JWK } from "jose";
import type { Clock } from "../lib/clock.ts";
import { issueTokens, type IssuedTokens } from "../lib/tokens.ts";
import { partiesOf, type Plan } from "./plans.ts";

/** Signs with the key that the orchestrator's replicas share. */
export class JobTokens {
  readonly #key: JWK;
  readonly #clock: Clock;

  constructor(key: JWK, clock: Clock) {
    this.#key = key;
    this.#clock = clock;
  }

  /**
   * Tokens for a job. They count at every provider that was approved and every third party that all of these accepted so far,
   * so that most go on counting when the plan changes; refreshed ones count where the plan is now.
   *
   * @param refreshUntil where tokens are refreshed: the end of the refresh token, in seconds since the epoch.
   */
  issue(plan: Plan, refreshUntil?: number): Promise<IssuedTokens> {
    const audience = new Set([...plan.approved, ...plan.acceptedComputeProviders, ...partiesOf(plan)]);
    const claims = {
      sub: plan.user.userName,
      uid: plan.user.id,
      job: plan.jobName,
      requestType: plan.requestType,
      dataSets: plan.dataSets,
      aud: [...audience].sort(),
      agreements: Object.fromEntries(plan.approved.map((steward) => [steward, plan.agreements[steward] ?? 0])),
    };
    return issueTokens(claims, this.#key, this.#clock, refreshUntil);
  }

  /** An access token for the front door's own calls of agents: a caller's may be older than the plan, or end on the way. */
  async forAgents(plan: Plan): Promise<string> {
    return (await this.issue(plan)).accessToken;
  }
}
