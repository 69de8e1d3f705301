/**
 * {@link AppError} ↔ gRPC status. The whole failure travels in trailing metadata, so that code, party and details
 * survive any number of hops; the gRPC status code is for programs that know only gRPC.
 */
import { Metadata, status as GrpcStatus, type ServiceError } from "@grpc/grpc-js";
import { AppError, fromFailure, toAppError, toFailure, type ErrorCode, type Failure } from "../errors.ts";

/** Trailer with the {@link Failure} as JSON in UTF-8 (`-bin`: grpc carries arbitrary bytes under such keys). */
export const FAILURE_TRAILER = "dynamos-failure-bin";

/** Trailers share HTTP/2's header limit (64 KiB in Node); a failure beyond this goes without its details. */
const MAX_FAILURE_BYTES = 8 * 1024;

/** The gRPC status for each HTTP status of the table in `lib/errors.ts`, after google.rpc.Code's mapping. */
const GRPC_STATUS_OF_HTTP: Readonly<Record<number, GrpcStatus>> = {
  400: GrpcStatus.INVALID_ARGUMENT,
  401: GrpcStatus.UNAUTHENTICATED,
  403: GrpcStatus.PERMISSION_DENIED,
  404: GrpcStatus.NOT_FOUND,
  406: GrpcStatus.INVALID_ARGUMENT,
  409: GrpcStatus.ALREADY_EXISTS,
  412: GrpcStatus.FAILED_PRECONDITION,
  413: GrpcStatus.RESOURCE_EXHAUSTED,
  415: GrpcStatus.INVALID_ARGUMENT,
  421: GrpcStatus.FAILED_PRECONDITION,
  422: GrpcStatus.FAILED_PRECONDITION,
  429: GrpcStatus.RESOURCE_EXHAUSTED,
  499: GrpcStatus.CANCELLED,
  500: GrpcStatus.INTERNAL,
  502: GrpcStatus.UNAVAILABLE,
  503: GrpcStatus.UNAVAILABLE,
  504: GrpcStatus.DEADLINE_EXCEEDED,
};

/** What gRPC itself, not a program of ours, ends calls with. */
const OWN_FAILURES: ReadonlyMap<GrpcStatus, { readonly code: ErrorCode; readonly says: string }> = new Map([
  // Not by us: then the caller knows why. A server that is torn down resets its streams so.
  [GrpcStatus.CANCELLED, { code: "job_failed", says: "cut the call off" }],
  [GrpcStatus.DEADLINE_EXCEEDED, { code: "deadline_exceeded", says: "did not answer before the deadline" }],
  [GrpcStatus.RESOURCE_EXHAUSTED, { code: "message_too_large", says: "refused a message" }],
  [GrpcStatus.UNAVAILABLE, { code: "job_failed", says: "stopped before it had answered" }],
]);

/** What grpc-js sends for a thrown error: status code, message, and the failure itself in the trailers. */
export function toGrpcStatus(thrown: unknown): { code: GrpcStatus; details: string; metadata: Metadata } {
  const error = toAppError(thrown);
  const metadata = new Metadata();
  metadata.set(FAILURE_TRAILER, encodeFailure(toFailure(error)));
  return {
    code: GRPC_STATUS_OF_HTTP[error.status] ?? GrpcStatus.UNKNOWN,
    details: shorten(error.message, 1000),
    metadata,
  };
}

/**
 * The error that a call ended with. Without our trailer it was gRPC itself: `peer` (for people: which program on which
 * port) names the other side in the message.
 */
export function fromGrpcStatus(
  error: Pick<ServiceError, "code" | "details"> & { metadata?: Metadata },
  peer: string,
): AppError {
  const carried = error.metadata?.get(FAILURE_TRAILER)[0];
  if (carried !== undefined) return decodeFailure(carried, peer);
  const { code, says } = OWN_FAILURES.get(error.code) ?? {
    code: "internal",
    says: `failed with gRPC status ${error.code}`,
  };
  // What the exception of another language's program says is not ours to hand on.
  const details = code === "internal" ? "" : `: ${error.details}`;
  return new AppError(code, `${peer} ${says}${details}.`, { cause: error });
}

function encodeFailure(failure: Failure): Buffer {
  const whole = Buffer.from(JSON.stringify(failure));
  if (whole.byteLength <= MAX_FAILURE_BYTES) return whole;
  const { details: _details, place: _place, ...short } = failure;
  return Buffer.from(JSON.stringify({ ...short, detail: shorten(failure.detail, MAX_FAILURE_BYTES / 4) }));
}

function decodeFailure(carried: string | Buffer, peer: string): AppError {
  try {
    return fromFailure(JSON.parse(carried.toString()) as Failure);
  } catch (cause) {
    return new AppError("internal", `${peer} sent a failure that is not JSON.`, { cause });
  }
}

function shorten(text: string, maxCharacters: number): string {
  return text.length <= maxCharacters ? text : `${text.slice(0, maxCharacters - 1)}…`;
}
