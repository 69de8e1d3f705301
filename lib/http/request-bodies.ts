/**
 * Bodies in the forms that users of the prototype send: snake case and camel case, translated at the edge, once,
 * and alike at the front door and at agents.
 */
import type { TSchema, Static } from "@sinclair/typebox";
import { Value } from "@sinclair/typebox/value";
import { AppError } from "../errors.ts";
import { DataRequest, RequestApproval } from "../model/data-request.ts";

/** Snake-case names and what they are here; `data_request` is the contract's own name. */
const ALIASES: Readonly<Record<string, string>> = {
  algorithm_columns: "algorithmColumns",
  algorithm_parameters: "algorithmParameters",
  data_providers: "dataProviders",
  data_sets: "dataSets",
  dataRequest: "data_request",
  request_metadata: "requestMetadata",
  user_name: "userName",
};
const OLD_OPTION_FIELDS = ["graph", "aggregate", "anonymize"] as const;

type Members = Record<string, unknown>;

/** A body as a request for approval; `bad_request` with the JSON pointer of the first fault. */
export function parseApproval(body: unknown): RequestApproval {
  const approval = renamed(requireObject(body, ""));
  const { user, data_request: question } = approval;
  if (isObject(user)) approval["user"] = renamed(user);
  if (isObject(question)) {
    const type = approval["type"];
    const inner = dataRequestMembers(question, type);
    if (inner["type"] !== type) {
      throw fault("/data_request/type", "The data request is of another type than the approval.");
    }
    approval["data_request"] = inner;
  }
  return checked(RequestApproval, approval);
}

/**
 * A body as a data request of this type, without members that are not known. The older form's top-level booleans become
 * options, unless these say otherwise. `bad_request` with the JSON pointer of the first fault.
 */
export function parseDataRequest(body: unknown, requestType: string): DataRequest {
  const members = dataRequestMembers(requireObject(body, ""), requestType);
  if (members["type"] !== requestType)
    throw fault("/type", `The body's type is not "${requestType}", which the path names.`);
  return Value.Clean(DataRequest, checked(DataRequest, members)) as DataRequest;
}

function dataRequestMembers(body: Readonly<Members>, requestType: unknown): Members {
  const request: Members = { type: requestType, ...renamed(body) };
  const { options, user } = request;
  const old = OLD_OPTION_FIELDS.filter((name) => typeof request[name] === "boolean");
  // What is no object stays, and is refused where it stands.
  if (old.length > 0 && (options === undefined || isObject(options))) {
    request["options"] = { ...Object.fromEntries(old.map((name) => [name, request[name]])), ...options };
  }
  for (const name of old) delete request[name];
  if (isObject(user)) request["user"] = renamed(user);
  return request;
}

function renamed(members: Readonly<Members>): Members {
  return Object.fromEntries(Object.entries(members).map(([name, value]) => [aliasOf(name), value]));
}

function aliasOf(name: string): string {
  return (Object.hasOwn(ALIASES, name) ? ALIASES[name] : undefined) ?? name;
}

function checked<Schema extends TSchema>(schema: Schema, value: unknown): Static<Schema> {
  const first = Value.Errors(schema, value).First();
  if (first !== undefined) throw fault(first.path, `${first.path || "The body"}: ${first.message}.`);
  return value;
}

function requireObject(value: unknown, pointer: string): Readonly<Members> {
  if (isObject(value)) return value;
  throw fault(pointer, "The body is not a JSON object.");
}

function isObject(value: unknown): value is Readonly<Members> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function fault(pointer: string, message: string): AppError {
  return new AppError("bad_request", message, { place: { pointer } });
}
