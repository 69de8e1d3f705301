/** The standard gRPC health service, as another program asks it. */
import { credentials, makeGenericClientConstructor, Metadata, type Client } from "@grpc/grpc-js";

/** A client of grpc.health.v1 whose messages are coded by hand, from the specification. */
export function healthClient(port: number): {
  client: Client;
  check: (service: string) => Promise<number>;
  watch: (service: string) => number[];
} {
  const method = (name: string, responseStream: boolean) => ({
    path: `/grpc.health.v1.Health/${name}`,
    requestStream: false,
    responseStream,
    requestSerialize: (service: string) =>
      service === "" ? Buffer.alloc(0) : Buffer.concat([Buffer.of(0x0a, service.length), Buffer.from(service)]),
    requestDeserialize: (bytes: Buffer) => bytes.toString(),
    responseSerialize: (status: number) => Buffer.of(8, status),
    responseDeserialize: (bytes: Buffer) => bytes[1] ?? 0,
  });
  const check = method("Check", false);
  const watch = method("Watch", true);
  const Health = makeGenericClientConstructor({ check, watch }, "grpc.health.v1.Health");
  const client = new Health(`127.0.0.1:${port}`, credentials.createInsecure());
  return {
    client,
    check: (service) =>
      new Promise((resolve, reject) => {
        client.makeUnaryRequest(
          check.path,
          check.requestSerialize,
          check.responseDeserialize,
          service,
          new Metadata(),
          (error, status) => (error ? reject(error) : resolve(status ?? 0)),
        );
      }),
    watch: (service) => {
      const statuses: number[] = [];
      client
        .makeServerStreamRequest(watch.path, watch.requestSerialize, watch.responseDeserialize, service)
        .on("data", (status: number) => statuses.push(status))
        .on("error", () => undefined);
      return statuses;
    },
  };
}
