/** What a failed call to etcd means: whether it may be repeated, on which connection, and which of our errors it is. */
import { AppError } from "../errors.ts";

/** A failed gRPC call: its status code, and the server's or the channel's words. */
export interface GrpcFailure {
  readonly code: number;
  readonly details: string;
}

/** The status codes that etcd and the channel answer with (gRPC, `statuscodes.md`). */
const GRPC = {
  cancelled: 1,
  unknown: 2,
  invalidArgument: 3,
  deadlineExceeded: 4,
  notFound: 5,
  permissionDenied: 7,
  resourceExhausted: 8,
  failedPrecondition: 9,
  outOfRange: 11,
  internal: 13,
  unavailable: 14,
  unauthenticated: 16,
} as const;

/**
 * - `not-sent`: no connection came about; nothing was carried out.
 * - `untrusted`: the same, since one side's certificate did not satisfy the other.
 * - `not-taken`: the server answered that it is too busy; nothing was carried out.
 * - `token`: the connection's token ran out or was forgotten; nothing was carried out.
 * - `broken`: the connection broke off; it may have been carried out.
 * - `troubled`: the server answered that its cluster is in trouble (no leader, say); it may have been carried out.
 * - `late`: the deadline passed; it may have been carried out.
 * - `denied`, `compacted`, `future`, `lease-ended`, `too-large`, `lease-exists`, `no-users`: the server's final word.
 * - `other`: an answer that we do not expect.
 */
export type FailureKind =
  | "not-sent"
  | "untrusted"
  | "not-taken"
  | "token"
  | "broken"
  | "troubled"
  | "late"
  | "denied"
  | "compacted"
  | "future"
  | "lease-ended"
  | "lease-exists"
  | "no-users"
  | "response-too-large"
  | "too-large"
  | "other";

/** Words of etcd's answers (`api/v3rpc/rpctypes/error.go`), stable since 3.0: the codes alone do not tell them apart. */
const WORDS: readonly (readonly [string, FailureKind])[] = [
  ["required revision has been compacted", "compacted"],
  ["required revision is a future revision", "future"],
  ["requested lease not found", "lease-ended"],
  ["lease already exists", "lease-exists"],
  ["invalid auth token", "token"],
  ["revision of auth store is old", "token"],
  ["authentication is not enabled", "no-users"],
  ["authentication failed", "denied"],
  ["user name is empty", "denied"],
  ["permission denied", "denied"],
  ["request is too large", "too-large"],
  ["too many requests", "not-taken"],
  ["database space exceeded", "troubled"],
  ["Received message larger than max", "response-too-large"],
  ["No connection established", "not-sent"],
  ["Name resolution failed", "not-sent"],
  ["Failed to connect", "not-sent"],
];

/** Sorts a failure. */
export function failureKind({ code, details }: GrpcFailure): FailureKind {
  if (details.startsWith("No connection established") && /certificate|altnames|\bself.signed\b/i.test(details)) {
    return "untrusted";
  }
  const byWords = WORDS.find(([words]) => details.includes(words))?.[1];
  if (byWords !== undefined) return byWords;
  const isServersWord = details.includes("etcdserver:");
  switch (code) {
    case GRPC.deadlineExceeded:
      return "late";
    case GRPC.permissionDenied:
    case GRPC.unauthenticated:
      return "denied";
    case GRPC.unavailable:
    case GRPC.resourceExhausted:
      return isServersWord ? "troubled" : "broken";
    case GRPC.cancelled:
    case GRPC.internal:
    case GRPC.unknown:
      return isServersWord ? "other" : "broken";
    default:
      return "other";
  }
}

/** A failed call, sorted: what the caller of the port gets in the end is its {@link EtcdFailure.toAppError}. */
export class EtcdFailure extends Error {
  readonly kind: FailureKind;
  readonly failure: GrpcFailure;

  constructor(failure: GrpcFailure, kind = failureKind(failure)) {
    super(failure.details);
    this.name = "EtcdFailure";
    this.failure = failure;
    this.kind = kind;
  }
}

/** Who asks, for messages. */
export interface Asker {
  /** For example `etcd at 127.0.0.1:2379`. */
  readonly place: string;
  readonly user: string | undefined;
  /** The key, or the beginning of keys, that it was about; empty: none. */
  readonly keys: string;
  /** Whether it may have been carried out although it failed. */
  readonly isWrite: boolean;
}

/** The error for the caller of the port. */
export function toStoreError(error: EtcdFailure, asker: Asker): AppError {
  const { kind, failure } = error;
  const { place } = asker;
  const options = { cause: error };
  switch (kind) {
    case "denied":
    case "token":
      return new AppError("access_refused", deniedMessage(failure.details, asker), options);
    case "too-large": {
      const message = `${place} takes no request of this size: raise its --max-request-bytes to at least 1.5 MiB.`;
      return new AppError("message_too_large", message, options);
    }
    case "late":
    case "broken":
    case "troubled": {
      const doubt = asker.isWrite ? " It may have been carried out nevertheless: read again." : "";
      return new AppError("unavailable", `${place} ${trouble(error)}.${doubt}`, options);
    }
    case "not-sent":
      return new AppError("unavailable", `${place} cannot be reached: ${reason(failure.details)}.`, options);
    case "untrusted": {
      const message = `The certificate of ${place} is not trusted (${reason(failure.details)}): name the authority that signed it in the option caFile of the knowledge store's URL, and connect by a name that stands in the certificate.`;
      return new AppError("unavailable", message, { ...options, retryable: false });
    }
    case "not-taken":
      return new AppError("unavailable", `${place} has too much to do, and took no request in time.`, options);
    case "lease-ended":
      return new AppError("not_found", "The lease has ended; grant a new one and write its keys again.", options);
    case "compacted":
    case "future":
    case "lease-exists":
    case "no-users":
    case "response-too-large":
    case "other":
      return new AppError("internal", `${place} gave an answer that is not understood: ${failure.details}.`, options);
  }
}

function trouble({ kind, failure }: EtcdFailure): string {
  if (kind === "late") return "did not answer before the deadline";
  if (kind === "broken") return `broke off the connection: ${reason(failure.details)}`;
  if (failure.details.includes("space exceeded")) {
    return "takes no more writes, since its quota is used up: compact and defragment it, then disarm its NOSPACE alarm";
  }
  return `is in trouble: ${failure.details.replace(/^.*etcdserver: /, "")}`;
}

function deniedMessage(details: string, { place, user, keys }: Asker): string {
  if (details.includes("user name is empty") || (user === undefined && !details.includes("permission denied"))) {
    return `${place} demands a user: name user and passwordFile in the knowledge store's URL.`;
  }
  const who = user === undefined ? "the client without a user" : `the user "${user}"`;
  if (details.includes("permission denied")) {
    const fix = `etcdctl role grant-permission --prefix=true <role> readwrite ${keys === "" ? "<prefix>" : keys}`;
    return `${place} denies ${who} the keys ${keys}: grant a role of this user the permission (${fix}).`;
  }
  return `${place} refuses ${who}: correct user and password in the knowledge store's URL, or the file that passwordFile names.`;
}

/** The channel's words without its preamble. */
function reason(details: string): string {
  return details
    .replace(/^No connection established\. Last error: /, "")
    .replace(/ Resolution note:.*$/s, "")
    .replace(/^(Error: )+/, "")
    .replace(/[.\s]+$/, "");
}
