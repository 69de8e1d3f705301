/** An analyst's and an admin's view of an exchange: the HTTP API as functions. For the commands, the demo and the tests. */
import { AppError, fromFailure, type Problem } from "../lib/errors.ts";
import { fetchTrusted } from "../lib/http/fetch.ts";
import type { DataRequest, RequestApproval } from "../lib/model/data-request.ts";
import { NODE_TRUST, type Trust } from "../lib/tls/trust.ts";

/** One row of an answer. */
export type AnswerRow = Readonly<Record<string, string | number | boolean | null>>;

/** One party's answer (`docs/architecture.md`, Answers). */
export interface Answer {
  readonly requestId?: string;
  readonly provider: string;
  readonly archetype?: string;
  readonly columns?: readonly { readonly name: string; readonly type: string }[];
  readonly rows?: readonly AnswerRow[];
  readonly rowCount?: number;
  readonly withheldGroups?: number;
  readonly minimumGroupSize?: number;
  readonly providers?: readonly { readonly name: string; readonly rows?: number; readonly status?: string }[];
  readonly notes?: readonly string[];
  readonly graph?: { readonly kind?: string; readonly svg?: string; readonly png?: string };
  readonly status: string;
  readonly problem?: Problem;
}

/** The front door's answer to a request that carried its question. */
export interface GatheredAnswer {
  readonly jobId: string;
  readonly requestId: string;
  readonly archetype: string;
  readonly responses: readonly Answer[];
  readonly pooled?: Omit<Answer, "provider" | "status" | "providers"> & { readonly providers?: readonly string[] };
  readonly refused: readonly { readonly provider: string; readonly code: string; readonly detail: string }[];
  readonly offline: readonly string[];
  readonly status: string;
}

/** An approval without a question. */
export interface Approval {
  readonly type: "requestApproved";
  readonly jobId: string;
  readonly archetype: string;
  readonly auth: { readonly accessToken: string; readonly refreshToken: string };
  /** Party to the URL that takes its data requests. */
  readonly authorizedProviders: Readonly<Record<string, string>>;
  readonly refused: GatheredAnswer["refused"];
  readonly offline: readonly string[];
}

/** What any call may carry. */
export interface CallOptions {
  readonly token?: string;
  readonly idempotencyKey?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
  /** Whose certificates count, of `https` URLs; default: what Node trusts. */
  readonly trust?: Trust;
}

/** See the file comment. Failures are AppErrors with the problem's code; the problem's members are in `details`. */
export class ExchangeClient {
  readonly url: string;
  readonly #trust: Trust;

  /** @param trust whose certificates count, of `https` URLs. */
  constructor(url: string, trust: Trust = NODE_TRUST) {
    this.url = url.replace(/\/$/, "");
    this.#trust = trust;
  }

  /** Asks for approval. */
  requestApproval(request: Omit<RequestApproval, "data_request">, options: CallOptions = {}): Promise<Approval> {
    return this.#json("POST", "/api/v1/requestApproval", request, options) as Promise<Approval>;
  }

  /** Asks for approval and the answer in one go. */
  ask(request: RequestApproval, options: CallOptions = {}): Promise<GatheredAnswer> {
    return this.#json("POST", "/api/v1/requestApproval", request, options) as Promise<GatheredAnswer>;
  }

  /** Asks under an approval, at the front door: by whichever archetype is right now. */
  askAgain(question: DataRequest, options: CallOptions): Promise<GatheredAnswer> {
    return this.#json("POST", `/api/v1/${question.type}`, question, options) as Promise<GatheredAnswer>;
  }

  /** Asks one party's agent directly. */
  askAgent(endpoint: string, question: DataRequest, options: CallOptions): Promise<Answer> {
    return callJson("POST", endpoint, question, { trust: this.#trust, ...options }) as Promise<Answer>;
  }

  /** Reads a document of the config API, for example `archetypes/computeToData`. */
  get(path: string, options: CallOptions = {}): Promise<unknown> {
    return this.#json("GET", `/api/v1/${path}`, undefined, options);
  }

  /** Writes a document of the config API, for example `policyEnforcer`, with the admin key as token. */
  put(path: string, document: unknown, options: CallOptions): Promise<unknown> {
    return this.#json("PUT", `/api/v1/${path}`, document, options);
  }

  #json(method: string, path: string, body: unknown, options: CallOptions): Promise<unknown> {
    return callJson(method, `${this.url}${path}`, body, { trust: this.#trust, ...options });
  }
}

/** Calls and gives the response, whatever its status. */
export async function call(method: string, url: string, body: unknown, options: CallOptions = {}): Promise<Response> {
  return fetchTrusted(url, {
    method,
    headers: {
      ...(options.token === undefined ? {} : { authorization: `Bearer ${options.token}` }),
      ...(options.idempotencyKey === undefined ? {} : { "idempotency-key": options.idempotencyKey }),
      ...options.headers,
    },
    ...(body === undefined ? {} : { body }),
    ...(options.signal === undefined ? {} : { signal: options.signal }),
    trust: options.trust ?? NODE_TRUST,
  });
}

async function callJson(method: string, url: string, body: unknown, options: CallOptions): Promise<unknown> {
  const response = await call(method, url, body, options);
  const text = await response.text();
  const value: unknown = text === "" ? undefined : JSON.parse(text);
  if (response.ok) return value;
  throw problemError(value, response.status);
}

/** The error that a problem document stands for. */
export function problemError(value: unknown, status: number): AppError {
  if (typeof value !== "object" || value === null || !("code" in value)) {
    return new AppError("internal", `The answer has status ${String(status)} and is no problem document.`);
  }
  const { code, detail, party, retryable, ...details } = value as Problem;
  return fromFailure({ code, detail, retryable, details, ...(party === undefined ? {} : { party }) });
}
