/**
 * The client under test: it does what `docs/errors.md` tells a user to do. Every question has an `Idempotency-Key`. After a
 * broken connection, or a failure that may pass, it asks again under the same key at the next orchestrator; after an answer
 * that broke off, under a new one; after a job that is gone, with a new approval. All of that within a time of its own.
 */
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import {
  call,
  problemError,
  type Answer,
  type Approval,
  type CallOptions,
  type GatheredAnswer,
} from "../../cli/client.ts";
import { AppError } from "../../lib/errors.ts";
import { lookAtAnswer, lookAtGathered, lookAtStream, type LookedAt } from "./answers.ts";
import type { History, Outcome } from "./history.ts";
import type { Oracle } from "./oracle.ts";
import type { PlannedRequest } from "./plan.ts";
import { toDataRequest, THIRD_PARTY } from "./questions.ts";
import type { ToldStep } from "./step-signal.ts";
import { ANALYST, COUNTING_ANALYST, STRANGER } from "./exchange-data.ts";

/** What clients work with. */
export interface ClientOptions {
  readonly history: History;
  readonly oracle: Oracle;
  /** Base URLs of the orchestrators. */
  readonly doors: readonly string[];
  /** Hears of steps that faults may wait for. */
  readonly onStep: (step: ToldStep) => void;
  /** Own limit of a request, with all its repeats. */
  readonly limitMs: number;
  /** No single attempt may take longer: the product's own deadline, and some time to say so. */
  readonly attemptLimitMs: number;
}

/** What to do after an attempt that was not the last. */
interface Again {
  readonly kind: "again";
  readonly what: string;
  /** `key`: the same question under a new key; `approval`: all from the beginning. */
  readonly renew?: "key" | "approval";
  readonly waitMs?: number;
}

type AttemptEnd = { readonly kind: "end"; readonly outcome: Outcome; readonly digest?: string } | Again;

const BROKEN_OFF = new Set(["stream_interrupted", "already_exists"]);
const JOB_GONE = new Set(["job_unknown", "token_expired"]);
/** An answer in which a party failed is asked for again so often; then it is taken as it is. */
const TRIES_FOR_ALL_PARTIES = 3;
const FIRST_WAIT_MS = 200;
const LONGEST_WAIT_MS = 3_000;
const POLL_MS = 250;
const DELETE_TRIES = 4;

/** Makes one request of the plan, to its outcome, and repeats it where the plan says so. */
export async function makeRequest(request: PlannedRequest, options: ClientOptions): Promise<void> {
  const { history } = options;
  history.add({ kind: "request", request, limitMs: options.limitMs });
  const attempts = new Attempts(request, options);
  const { outcome, digest } = await attempts.toTheEnd();
  history.add({ kind: "outcome", request: request.name, outcome });
  const { ending } = request;
  if (outcome.kind !== "answered" || ending.kind !== "answer" || !ending.repeats) return;
  const again = await attempts.once();
  history.add({ kind: "repeated", request: request.name, fault: faultOfRepeat(outcome, digest, again) });
}

/** A repeat may find that a fault has taken away what answered first, or that the answer was too large to be kept. */
function faultOfRepeat(
  first: Extract<Outcome, { kind: "answered" }>,
  digest: string | undefined,
  again: AttemptEnd,
): string | undefined {
  if (again.kind === "again" || again.outcome.kind !== "answered") return undefined;
  const { outcome } = again;
  if (outcome.fault !== undefined) return outcome.fault;
  const isSameParties = [...outcome.providers].sort().join() === [...first.providers].sort().join();
  if (isSameParties && again.digest !== digest) return "another answer than the first time";
  return undefined;
}

/** The attempts at one request. */
class Attempts {
  readonly #request: PlannedRequest;
  readonly #options: ClientOptions;
  readonly #leaving = new AbortController();
  #key: string = randomUUID();
  #door: number;
  #approval: Approval | undefined;
  /** Where the party that answers was last seen. */
  #endpoint: string | undefined;
  #triesForAll = 0;
  #isCancelling = false;

  constructor(request: PlannedRequest, options: ClientOptions) {
    this.#request = request;
    this.#options = options;
    this.#door = request.door;
  }

  async toTheEnd(): Promise<{ readonly outcome: Outcome; readonly digest: string | undefined }> {
    const { history, limitMs } = this.#options;
    const giveUpAtMs = history.now() + limitMs;
    for (let round = 0; ; round += 1) {
      const end = await this.once();
      if (end.kind === "end") return { outcome: end.outcome, digest: end.digest };
      history.add({ kind: "attemptFailed", request: this.#request.name, what: end.what });
      if (this.#isCancelling) return { outcome: { kind: "cancelled" }, digest: undefined };
      this.#renew(end.renew);
      const waitMs = end.waitMs ?? Math.min(FIRST_WAIT_MS * 2 ** round, LONGEST_WAIT_MS);
      if (history.now() + waitMs >= giveUpAtMs) {
        return { outcome: { kind: "gaveUp", last: end.what }, digest: undefined };
      }
      await sleep(waitMs);
    }
  }

  /** One attempt, at the next orchestrator in turn. */
  async once(): Promise<AttemptEnd> {
    const { history, attemptLimitMs, doors } = this.#options;
    const door = doors[this.#door++ % doors.length] ?? "";
    const url = this.#request.way === "agent" ? (this.#endpoint ?? door) : door;
    history.add({ kind: "attempt", request: this.#request.name, url, key: this.#key });
    const beganMs = history.now();
    const limit = AbortSignal.timeout(attemptLimitMs);
    try {
      return await this.#attempt(door, AbortSignal.any([limit, this.#leaving.signal]));
    } catch (thrown) {
      if (limit.aborted) {
        const forMs = history.now() - beganMs;
        history.add({ kind: "hung", request: this.#request.name, url, forMs });
        return { kind: "again", what: "hung" };
      }
      return this.#endOf(thrown);
    }
  }

  async #attempt(door: string, signal: AbortSignal): Promise<AttemptEnd> {
    switch (this.#request.way) {
      case "oneGo":
        return this.#gathered(await this.#post(door, APPROVAL_PATH, this.#oneGoBody(), { signal }));
      case "later":
        return this.#later(door, signal);
      case "frontDoor": {
        const { auth } = await this.#approved(door, signal);
        const path = "/api/v1/sqlDataRequest";
        return this.#gathered(await this.#post(door, path, this.#question(), { signal, token: auth.accessToken }));
      }
      case "agent":
        return this.#atAgent(door, signal);
    }
  }

  /** Asks for an answer later, and looks until it is there. */
  async #later(door: string, signal: AbortSignal): Promise<AttemptEnd> {
    const headers = { prefer: "respond-async" };
    const accepted = await this.#post(door, APPROVAL_PATH, this.#oneGoBody(), { signal, headers });
    await this.#requireOk(accepted);
    const body = (await readJson(accepted)) as { location: string; auth: { accessToken: string } };
    if (accepted.status !== 202) return this.#gatheredBody(body as unknown as GatheredAnswer);
    const token = body.auth.accessToken;
    this.#cancelLater(new URL(body.location, door).href, token);
    for (;;) {
      const response = await call("GET", new URL(body.location, door).href, undefined, { token, signal });
      if (response.status !== 202) return this.#gathered(response);
      await response.arrayBuffer();
      await sleep(POLL_MS, undefined, { signal });
    }
  }

  async #atAgent(door: string, signal: AbortSignal): Promise<AttemptEnd> {
    const approval = await this.#approved(door, signal);
    const party = this.#request.throughThirdParty ? THIRD_PARTY : (this.#request.providers[0] ?? "");
    const named = approval.authorizedProviders[party];
    if (named === undefined) return this.#withoutParty(approval, party);
    this.#endpoint ??= named;
    const token = approval.auth.accessToken;
    const headers = { accept: MEDIA_TYPES[this.#request.format] };
    this.#cancelLater(new URL(`/agent/v1/requests/${this.#key}`, this.#endpoint).href, token);
    let response: Response;
    try {
      response = await this.#send("POST", this.#endpoint, this.#question(), { token, signal, headers });
    } catch (thrown) {
      if (!(thrown instanceof AppError)) this.#endpoint = await this.#endpointNow(door, party, signal);
      throw thrown;
    }
    return this.#agentAnswer(response);
  }

  async #agentAnswer(response: Response): Promise<AttemptEnd> {
    const { format } = this.#request;
    await this.#requireOk(response);
    if (format === "json") {
      const answer = (await readJson(this.#watched(response))) as Answer;
      return this.#judged(lookAtAnswer(this.#planned(), answer, this.#options.oracle));
    }
    const chunks = this.#watched(response).body as unknown as AsyncIterable<Uint8Array>;
    return this.#judged(await lookAtStream(this.#planned(), format, chunks, this.#options.oracle));
  }

  /** Whoever was to answer was offline when the job was planned. */
  #withoutParty(approval: Approval, party: string): AttemptEnd {
    const code = approval.offline.includes(party) ? "agent_offline" : "no_authorized_providers";
    return { kind: "again", what: `${party} is not in the plan: ${code}`, renew: "approval" };
  }

  /** Where a party is now, as its record says; an agent that was started anew may be elsewhere. */
  async #endpointNow(door: string, party: string, signal: AbortSignal): Promise<string | undefined> {
    const response = await call("GET", `${door}/api/v1/getAvailableProviders`, undefined, { signal });
    const online = (await response.json()) as Record<string, { readonly dns?: string } | undefined>;
    const dns = online[party]?.dns;
    return dns === undefined ? undefined : `${dns}/agent/v1/sqlDataRequest/${party.toLowerCase()}`;
  }

  async #approved(door: string, signal: AbortSignal): Promise<Approval> {
    if (this.#approval === undefined) {
      const response = await this.#send("POST", `${door}${APPROVAL_PATH}`, this.#approvalBody(), { signal });
      await this.#requireOk(response);
      this.#approval = (await response.json()) as Approval;
      this.#options.onStep("approved");
    }
    return this.#approval;
  }

  async #gathered(response: Response): Promise<AttemptEnd> {
    await this.#requireOk(response);
    return this.#gatheredBody((await readJson(this.#watched(response))) as GatheredAnswer);
  }

  #gatheredBody(answer: GatheredAnswer): AttemptEnd {
    return this.#judged(lookAtGathered(this.#request, answer, this.#options.oracle));
  }

  /** The request as the approval left it: an agent's own answer does not name those that the plan is without. */
  #planned(): PlannedRequest {
    const offline = this.#approval?.offline ?? [];
    return { ...this.#request, providers: this.#request.providers.filter((name) => !offline.includes(name)) };
  }

  #withOffline(outcome: Outcome): Outcome {
    if (outcome.kind !== "answered" || this.#request.way !== "agent") return outcome;
    const offline = this.#approval?.offline ?? [];
    return { ...outcome, without: [...outcome.without, ...offline.map((provider) => ({ provider, code: "offline" }))] };
  }

  /** An answer that lacks a party is asked for again a few times, as a user would. */
  #judged({ outcome, failures, digest }: LookedAt): AttemptEnd {
    const what = failures.map(({ code }) => code).join(", ");
    const isBroken = failures.some(({ code }) => BROKEN_OFF.has(code));
    const mayPass = isBroken || failures.some(({ retryable }) => retryable);
    if (outcome.fault === undefined && mayPass && this.#triesForAll++ < TRIES_FOR_ALL_PARTIES) {
      return { kind: "again", what, ...(isBroken ? { renew: "key" } : {}) };
    }
    return { kind: "end", outcome: this.#withOffline(outcome), digest };
  }

  #endOf(thrown: unknown): AttemptEnd {
    if (this.#leaving.signal.aborted) return { kind: "end", outcome: { kind: "cancelled" } };
    if (!(thrown instanceof AppError)) {
      if (isNetworkFault(thrown)) return { kind: "again", what: networkFault(thrown) };
      const detail = `the answer cannot be read: ${String(thrown)}`;
      return {
        kind: "end",
        outcome: { kind: "failed", code: "unreadable", detail, party: undefined, retryable: false },
      };
    }
    const { code, message: detail, party, retryable } = thrown;
    // Of a request that was deleted nothing is known any more, or that it was cancelled.
    if (this.#isCancelling && (code === "cancelled" || code === "not_found")) {
      return { kind: "end", outcome: { kind: "cancelled" } };
    }
    if (BROKEN_OFF.has(code)) return { kind: "again", what: code, renew: "key" };
    if (JOB_GONE.has(code)) return { kind: "again", what: code, renew: "approval" };
    if (retryable || isOfflineAlone(thrown)) {
      const seconds = thrown.details["retryAfterSeconds"];
      return { kind: "again", what: code, ...(typeof seconds === "number" ? { waitMs: seconds * 1000 } : {}) };
    }
    return { kind: "end", outcome: { kind: "failed", code, detail, party, retryable } };
  }

  #renew(what: "key" | "approval" | undefined): void {
    if (what === undefined) return;
    this.#key = randomUUID();
    if (what !== "approval") return;
    this.#approval = undefined;
    this.#endpoint = undefined;
  }

  async #post(door: string, path: string, body: unknown, options: CallOptions): Promise<Response> {
    return this.#send("POST", `${door}${path}`, body, options);
  }

  async #send(method: string, url: string, body: unknown, options: CallOptions): Promise<Response> {
    const { ending, way } = this.#request;
    const isQuestion = way !== "later" && (way === "oneGo" || this.#approval !== undefined);
    if (isQuestion && ending.kind === "cancel" && ending.by === "hangUp" && ending.after !== "firstByte") {
      setTimeout(() => this.#leave(), ending.after).unref();
    }
    return call(method, url, body, { ...options, idempotencyKey: this.#key });
  }

  async #requireOk(response: Response): Promise<void> {
    if (response.ok) return;
    throw problemError(await readJson(response), response.status);
  }

  /** The response, whose first byte is told. */
  #watched(response: Response): Response {
    const { ending } = this.#request;
    const first = (): void => {
      this.#options.onStep("firstByte");
      if (ending.kind === "cancel" && ending.by === "hangUp" && ending.after === "firstByte") this.#leave();
    };
    let isFirst = true;
    const watch = new TransformStream<Uint8Array, Uint8Array>({
      transform: (chunk, controller) => {
        if (isFirst) first();
        isFirst = false;
        controller.enqueue(chunk);
      },
    });
    return new Response(response.body?.pipeThrough(watch) ?? null, { status: response.status });
  }

  #leave(): void {
    this.#isCancelling = true;
    this.#leaving.abort(new Error("the client hung up"));
  }

  /** Deletes the request after its time, and hangs up where that is not heard. */
  #cancelLater(url: string, token: string): void {
    const { ending } = this.#request;
    if (ending.kind !== "cancel" || ending.by !== "delete" || this.#isCancelling) return;
    const afterMs = ending.after === "firstByte" ? 500 : ending.after;
    setTimeout(() => void this.#delete(url, token), afterMs).unref();
  }

  async #delete(url: string, token: string): Promise<void> {
    this.#isCancelling = true;
    for (let tries = 0; tries < DELETE_TRIES; tries += 1) {
      try {
        const response = await call("DELETE", url, undefined, { token, signal: AbortSignal.timeout(10_000) });
        await response.arrayBuffer();
        // 404: it has ended, or has not begun yet.
        if (response.status === 204) return;
      } catch (thrown) {
        this.#options.history.add({
          kind: "attemptFailed",
          request: this.#request.name,
          what: `DELETE: ${networkFault(thrown)}`,
        });
      }
      await sleep(500);
    }
    this.#leave();
  }

  #question(): Record<string, unknown> {
    const question = toDataRequest(this.#request.question);
    const { ending } = this.#request;
    if (ending.kind !== "refusal") return { ...question };
    switch (ending.fault) {
      case "noSuchColumn":
        return { ...question, query: "SELECT salary FROM Members" };
      case "noSuchAlgorithm":
        return { ...question, algorithm: "guess", algorithmColumns: { "*": "worth" } };
      case "unknownUser":
      case "rawRowsNotAllowed":
        return { ...question };
    }
  }

  #approvalBody(): Record<string, unknown> {
    const { ending, providers, throughThirdParty } = this.#request;
    const fault = ending.kind === "refusal" ? ending.fault : undefined;
    const user = fault === "unknownUser" ? STRANGER : fault === "rawRowsNotAllowed" ? COUNTING_ANALYST : ANALYST;
    return {
      type: "sqlDataRequest",
      user,
      dataProviders: providers,
      options: { aggregate: throughThirdParty },
    };
  }

  #oneGoBody(): Record<string, unknown> {
    return { ...this.#approvalBody(), data_request: this.#question() };
  }
}

const APPROVAL_PATH = "/api/v1/requestApproval";

const MEDIA_TYPES = {
  json: "application/json",
  csv: "text/csv",
  arrow: "application/vnd.apache.arrow.stream",
} as const;

async function readJson(response: Response): Promise<unknown> {
  const text = await response.text();
  return text === "" ? undefined : (JSON.parse(text) as unknown);
}

/** Nobody refused: those who were asked are only away. */
function isOfflineAlone({ code, details }: AppError): boolean {
  const { offline, refused } = details;
  if (code !== "no_authorized_providers") return false;
  return Array.isArray(offline) && offline.length > 0 && Array.isArray(refused) && refused.length === 0;
}

/** `fetch` says so of connections that could not be made or broke; anything else is a fault of the answer. */
function isNetworkFault(thrown: unknown): boolean {
  return thrown instanceof TypeError && /fetch failed|terminated/.test(thrown.message);
}

function networkFault(thrown: unknown): string {
  const error = thrown as { readonly message?: string; readonly cause?: { readonly code?: string } };
  return `connection: ${error.cause?.code ?? error.message ?? String(thrown)}`;
}
