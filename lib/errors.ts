/**
 * The one error type of the system, with its closed table of codes.
 *
 * Every failure that crosses a boundary (HTTP, gRPC, bus, process) is an {@link AppError}. The code is stable: clients
 * branch on it, `docs/errors.md` lists it (a test compares both), and it decides HTTP status and whether a retry is
 * worth it. Messages are for people: they name the thing, the value, the limit, and what to change.
 */

/** What one code means: HTTP status (RFC 9110), whether repeating may help, and a title (RFC 9457, section 3.1.3). */
export interface ErrorKind {
  readonly status: number;
  readonly retryable: boolean;
  readonly title: string;
}

/** The closed table. Keep it sorted; `docs/errors.md` explains each entry. */
export const ERROR_KINDS = {
  access_refused: { status: 503, retryable: false, title: "A service that this needs refuses our credentials" },
  agent_offline: { status: 503, retryable: true, title: "The agent of this party is not online" },
  agent_timeout: { status: 504, retryable: true, title: "The agent did not answer in time" },
  agreement_gone: { status: 403, retryable: false, title: "The agreement behind this request no longer allows it" },
  algorithm_unknown: { status: 400, retryable: false, title: "Unknown algorithm" },
  already_exists: { status: 409, retryable: false, title: "It exists already" },
  archetype_conflict: { status: 403, retryable: false, title: "No archetype is allowed by all parties" },
  bad_request: { status: 400, retryable: false, title: "The request is malformed" },
  batch_too_large: { status: 422, retryable: false, title: "One row or batch is larger than the limit" },
  cancelled: { status: 499, retryable: false, title: "The request was cancelled" },
  chain_invalid: { status: 422, retryable: false, title: "The microservices do not form a valid chain" },
  column_unknown: { status: 400, retryable: false, title: "Unknown column" },
  compute_provider_unavailable: { status: 503, retryable: true, title: "No acceptable third party is online" },
  configuration_invalid: { status: 422, retryable: false, title: "The configuration is invalid" },
  conflict: { status: 409, retryable: true, title: "It was changed by somebody else meanwhile" },
  data_invalid: { status: 422, retryable: false, title: "The data cannot be read" },
  deadline_exceeded: { status: 504, retryable: false, title: "The deadline passed" },
  forbidden: { status: 403, retryable: false, title: "Not allowed" },
  idempotency_key_reused: { status: 422, retryable: false, title: "This Idempotency-Key named another request" },
  internal: { status: 500, retryable: false, title: "An error inside the system" },
  invalid_argument: { status: 400, retryable: false, title: "An argument is invalid" },
  job_failed: { status: 502, retryable: true, title: "A part of the chain stopped before its work was done" },
  job_moved: { status: 421, retryable: false, title: "This job is now answered by another party" },
  job_start_failed: { status: 502, retryable: true, title: "The chain could not be started" },
  job_unknown: { status: 404, retryable: false, title: "No such job, or its lease ended" },
  memory_limit_exceeded: { status: 422, retryable: false, title: "A memory limit was reached" },
  message_too_large: { status: 413, retryable: false, title: "The message is larger than the limit" },
  no_authorized_providers: { status: 403, retryable: false, title: "No data provider may answer this request" },
  not_acceptable: { status: 406, retryable: false, title: "None of the accepted media types can be made" },
  not_found: { status: 404, retryable: false, title: "Not found" },
  operation_denied: { status: 403, retryable: false, title: "The agreement does not allow this operation" },
  precondition_failed: { status: 412, retryable: false, title: "The document changed since it was read" },
  query_invalid: { status: 400, retryable: false, title: "The query cannot be run" },
  rate_limited: { status: 429, retryable: true, title: "Too many requests" },
  request_denied: { status: 403, retryable: false, title: "The agreement does not allow this request" },
  result_too_large: { status: 422, retryable: false, title: "The result is larger than the limit" },
  storage_full: { status: 507, retryable: true, title: "A disk that this needs is full" },
  stream_interrupted: { status: 502, retryable: false, title: "The stream broke off after rows had been delivered" },
  time_limit_exceeded: { status: 422, retryable: false, title: "A time limit was reached" },
  token_expired: { status: 401, retryable: false, title: "The token has expired" },
  token_invalid: { status: 401, retryable: false, title: "The token is not valid here" },
  type_mismatch: { status: 422, retryable: false, title: "Values do not have the declared type" },
  unauthenticated: { status: 401, retryable: false, title: "Credentials are missing" },
  unavailable: { status: 503, retryable: true, title: "A service that this needs is not available" },
  unsupported_media_type: { status: 415, retryable: false, title: "Unsupported media type" },
} as const satisfies Record<string, ErrorKind>;

/** A stable error code. */
export type ErrorCode = keyof typeof ERROR_KINDS;

/** Where in an input the fault is: a file with line and column (both from 1), or a JSON pointer (RFC 6901). */
export interface ErrorPlace {
  readonly file?: string;
  readonly line?: number;
  readonly column?: number;
  readonly pointer?: string;
}

/** What an {@link AppError} may carry besides code and message. */
export interface AppErrorOptions {
  /** The party (steward, third party, `orchestrator`) that failed. */
  readonly party?: string;
  readonly cause?: unknown;
  /** Overrides the table's default, for example when rows have been handed on already. */
  readonly retryable?: boolean;
  readonly place?: ErrorPlace;
  /** Further members of the problem document, such as `known` names or a `limit`. JSON values only. */
  readonly details?: Readonly<Record<string, unknown>>;
}

/** An error with a stable code; see {@link ERROR_KINDS}. */
export class AppError extends Error {
  readonly code: ErrorCode;
  readonly party: string | undefined;
  readonly retryable: boolean;
  readonly place: ErrorPlace | undefined;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: ErrorCode, message: string, options: AppErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "AppError";
    this.code = code;
    this.party = options.party;
    this.retryable = options.retryable ?? ERROR_KINDS[code].retryable;
    this.place = options.place;
    this.details = options.details ?? {};
  }

  /** HTTP status of this error's code. */
  get status(): number {
    return ERROR_KINDS[this.code].status;
  }

  /** The same error, with the party that failed named (unless one is named already). */
  withParty(party: string): AppError {
    if (this.party !== undefined) return this;
    const message = this.message === unexpected() ? unexpected(party) : this.message;
    return new AppError(this.code, message, {
      party,
      cause: this.cause,
      retryable: this.retryable,
      details: this.details,
      ...(this.place ? { place: this.place } : {}),
    });
  }
}

/** Whether a string is one of our codes. */
export function isErrorCode(code: string): code is ErrorCode {
  return Object.hasOwn(ERROR_KINDS, code);
}

/**
 * Anything thrown, as an {@link AppError}: ours unchanged, aborts as `cancelled`, a full disk as `storage_full`, the rest as
 * `internal`.
 *
 * What was not written for others to read (it may quote data, keys or paths: `ENOENT`, `JSON.parse`) is only the cause, which
 * stays in this process, whatever way the error takes. Whoever hands it on logs it; see {@link isUnexpected}.
 */
export function toAppError(thrown: unknown): AppError {
  if (thrown instanceof AppError) return thrown;
  if (thrown instanceof Error && thrown.name === "AbortError") {
    if (thrown.cause instanceof AppError) return thrown.cause;
    return new AppError("cancelled", "The work was cancelled.", { cause: thrown });
  }
  if (thrown instanceof Error && thrown.name === "TimeoutError") {
    return new AppError("deadline_exceeded", "The deadline passed.", { cause: thrown });
  }
  if (isStorageFull(thrown)) {
    const detail =
      "A disk is full, or its quota is used up. Its operator makes room; then the request may be repeated.";
    return new AppError("storage_full", detail, { cause: thrown });
  }
  return new AppError("internal", unexpected(), { cause: thrown ?? new Error(`${String(thrown)} was thrown.`) });
}

/** Whether only this process knows what went wrong: where such an error leaves it, it is to be logged. */
export function isUnexpected(error: AppError): boolean {
  return (error.code === "internal" || error.code === "storage_full") && error.cause !== undefined;
}

/** What the operating system and SQLite say of it. */
const STORAGE_FULL = new Set(["ENOSPC", "EDQUOT", "SQLITE_FULL"]);

function isStorageFull(thrown: unknown): boolean {
  return thrown instanceof Error && STORAGE_FULL.has(String((thrown as NodeJS.ErrnoException).code));
}

function unexpected(party?: string): string {
  return `Unexpected error; see the log${party === undefined ? "" : ` of ${party}`}.`;
}

/** Where an error was thrown, without its message. */
export function stackFrames(error: Error): string {
  return (error.stack ?? "")
    .split("\n")
    .filter((line) => /^ {4}at /.test(line))
    .join("\n");
}

/** A failure as it travels over bus, gRPC and HTTP (decision 5: code, party, retryable, detail). */
export interface Failure {
  readonly code: ErrorCode;
  readonly detail: string;
  readonly party?: string;
  readonly retryable: boolean;
  readonly place?: ErrorPlace;
  readonly details?: Readonly<Record<string, unknown>>;
}

/** The wire form of an error. The cause stays in the process that threw. */
export function toFailure(thrown: unknown): Failure {
  const error = toAppError(thrown);
  return {
    code: error.code,
    detail: error.message,
    retryable: error.retryable,
    ...(error.party === undefined ? {} : { party: error.party }),
    ...(error.place === undefined ? {} : { place: error.place }),
    ...(Object.keys(error.details).length === 0 ? {} : { details: error.details }),
  };
}

/** The error that a wire form stands for; a code from a newer version becomes `internal`. */
export function fromFailure(failure: Omit<Failure, "code"> & { readonly code: string }): AppError {
  return new AppError(isErrorCode(failure.code) ? failure.code : "internal", failure.detail, {
    retryable: failure.retryable,
    ...(failure.party === undefined ? {} : { party: failure.party }),
    ...(failure.place === undefined ? {} : { place: failure.place }),
    ...(failure.details === undefined ? {} : { details: failure.details }),
  });
}

/** An RFC 9457 problem document. `code` is stable; `title` is fixed per code; `detail` names this occurrence. */
export interface Problem {
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly detail: string;
  readonly code: ErrorCode;
  readonly party?: string;
  readonly retryable: boolean;
  readonly [member: string]: unknown;
}

/** The problem document of an error (RFC 9457); of what is not an {@link AppError} see {@link toAppError}. */
export function toProblem(thrown: unknown): Problem {
  const error = toAppError(thrown);
  const kind = ERROR_KINDS[error.code];
  return {
    // First: a detail that came from elsewhere must not pass for what this error says of itself.
    ...error.details,
    type: `urn:dynamos:error:${error.code}`,
    title: kind.title,
    status: kind.status,
    detail: error.message,
    code: error.code,
    retryable: error.retryable,
    ...(error.party === undefined ? {} : { party: error.party }),
    ...(error.place ?? {}),
  };
}
