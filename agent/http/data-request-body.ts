/** The body of a data request in the forms that users of the prototype send (`contracts.md`): translated at the edge, once. */
import { Value } from "@sinclair/typebox/value";
import { AppError } from "../../lib/errors.ts";
import { DataRequest } from "../../lib/model/data-request.ts";

/** Snake-case names and what they are here. */
const ALIASES: Readonly<Record<string, string>> = {
  algorithm_columns: "algorithmColumns",
  algorithm_parameters: "algorithmParameters",
  request_metadata: "requestMetadata",
};
const OLD_OPTION_FIELDS = ["graph", "aggregate", "anonymize"] as const;

/**
 * A body as a data request: snake case and camel case, options as an object or, as the older form has it, as booleans beside
 * the others; `user` with `user_name`.
 *
 * @throws AppError `bad_request` with the JSON pointer of the first fault.
 */
export function parseDataRequest(body: unknown, requestType: string): DataRequest {
  if (!isObject(body)) {
    throw new AppError("bad_request", "The body is not a JSON object.", { place: { pointer: "" } });
  }
  const request: Record<string, unknown> = { type: requestType };
  for (const [name, value] of Object.entries(body)) request[ALIASES[name] ?? name] = value;
  const old = OLD_OPTION_FIELDS.filter((name) => typeof request[name] === "boolean");
  if (old.length > 0 && isObject(request["options"] ?? {})) {
    request["options"] = {
      ...(request["options"] as object),
      ...Object.fromEntries(old.map((name) => [name, request[name]])),
    };
  }
  for (const name of old) delete request[name];
  request["user"] = camelUser(request["user"]);
  if (request["user"] === undefined) delete request["user"];
  if (request["type"] !== requestType) {
    throw new AppError("bad_request", `The body's type is not "${requestType}", which the path names.`, {
      place: { pointer: "/type" },
    });
  }
  const fault = Value.Errors(DataRequest, request).First();
  if (fault !== undefined) {
    throw new AppError("bad_request", `${fault.path}: ${fault.message}.`, { place: { pointer: fault.path } });
  }
  return Value.Clean(DataRequest, request) as DataRequest;
}

function camelUser(user: unknown): unknown {
  if (typeof user !== "object" || user === null || !("user_name" in user)) return user;
  const { user_name: userName, ...rest } = user;
  return { userName, ...rest };
}

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
