/**
 * The standard health service, `grpc.health.v1.Health` (https://github.com/grpc/grpc/blob/master/doc/health-checking.md):
 * what Kubernetes' gRPC probes and `grpc_health_probe` ask. Its two messages have one field each and are coded by hand.
 */
import { BinaryReader } from "@bufbuild/protobuf/wire";
import {
  Metadata,
  status as GrpcStatus,
  type handleServerStreamingCall,
  type handleUnaryCall,
  type Server,
  type ServerWritableStream,
} from "@grpc/grpc-js";

/** HealthCheckResponse.ServingStatus. */
const SERVING_STATUS = { serving: 1, notServing: 2, serviceUnknown: 3 } as const;
type ServingStatus = (typeof SERVING_STATUS)[keyof typeof SERVING_STATUS];

/** An object, because grpc-js takes a falsy message (the empty name, which asks for the whole server) for none. */
interface HealthCheckRequest {
  readonly service: string;
}

/** Answers for the whole server (service name "") and for each service by its full name. */
export class HealthService {
  readonly #names: ReadonlySet<string>;
  readonly #watchers = new Set<ServerWritableStream<HealthCheckRequest, ServingStatus>>();
  #isServing = true;

  constructor(serviceNames: readonly string[]) {
    this.#names = new Set(["", ...serviceNames]);
  }

  /** Registers Check and Watch. */
  addTo(server: Server): void {
    server.register("/grpc.health.v1.Health/Check", this.#check, encodeStatus, decodeRequest, "unary");
    server.register("/grpc.health.v1.Health/Watch", this.#watch, encodeStatus, decodeRequest, "serverStream");
  }

  /** From now on NOT_SERVING; watchers are told, and let go. */
  stop(): void {
    this.#isServing = false;
    for (const watcher of this.#watchers) {
      watcher.write(SERVING_STATUS.notServing);
      watcher.end();
    }
    this.#watchers.clear();
  }

  readonly #check: handleUnaryCall<HealthCheckRequest, ServingStatus> = (call, callback) => {
    if (this.#names.has(call.request.service)) return callback(null, this.#status(call.request.service));
    callback({ code: GrpcStatus.NOT_FOUND, details: "unknown service", metadata: new Metadata() });
  };

  readonly #watch: handleServerStreamingCall<HealthCheckRequest, ServingStatus> = (call) => {
    this.#watchers.add(call);
    call.on("cancelled", () => this.#watchers.delete(call));
    call.write(this.#status(call.request.service));
  };

  #status(name: string): ServingStatus {
    if (!this.#names.has(name)) return SERVING_STATUS.serviceUnknown;
    return this.#isServing ? SERVING_STATUS.serving : SERVING_STATUS.notServing;
  }
}

/** HealthCheckRequest{string service = 1}. */
function decodeRequest(bytes: Buffer): HealthCheckRequest {
  const reader = new BinaryReader(bytes);
  let service = "";
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    if (field === 1) service = reader.string();
    else reader.skip(wireType);
  }
  return { service };
}

/** HealthCheckResponse{ServingStatus status = 1}: field 1 as a varint. */
function encodeStatus(status: ServingStatus): Buffer {
  return Buffer.of(0x08, status);
}
