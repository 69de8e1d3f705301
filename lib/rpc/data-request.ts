/** The analyst's question between its JSON form (`lib/model/data-request.ts`) and its wire form, which leaves out who asks. */
import { create } from "@bufbuild/protobuf";
import { isOptionOn, type DataRequest } from "../model/data-request.ts";
import { parseJsonObject } from "./frames.ts";
import { DataRequestSchema, type DataRequest as DataRequestMessage } from "./gen/dynamos/v1/stream_pb.ts";

/** The wire form. User and metadata stay behind: no microservice needs them. */
export function toRequestMessage(request: DataRequest): DataRequestMessage {
  const options = Object.keys(request.options ?? {}).map((key) => [key, isOptionOn(request.options, key)] as const);
  return create(DataRequestSchema, {
    type: request.type,
    query: request.query,
    algorithm: request.algorithm ?? "",
    algorithmColumns: request.algorithmColumns ?? {},
    algorithmParametersJson:
      request.algorithmParameters === undefined ? "" : JSON.stringify(request.algorithmParameters),
    graphJson: request.graph === undefined ? "" : JSON.stringify(request.graph),
    options: Object.fromEntries(options),
  });
}

/** The plain form. Fails with `data_invalid` where one of its JSON fields is not a JSON object. */
export function fromRequestMessage(message: DataRequestMessage): DataRequest {
  return {
    type: message.type,
    query: message.query,
    options: message.options,
    ...(message.algorithm === "" ? {} : { algorithm: message.algorithm }),
    ...(Object.keys(message.algorithmColumns).length === 0 ? {} : { algorithmColumns: message.algorithmColumns }),
    ...(message.algorithmParametersJson === ""
      ? {}
      : { algorithmParameters: parseJsonObject(message.algorithmParametersJson) }),
    ...(message.graphJson === "" ? {} : { graph: parseJsonObject(message.graphJson) as Record<string, string> }),
  };
}
