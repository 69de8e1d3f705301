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
  if (typeof body !== "object" || body === null || Array.isArray(body)) {
    throw new AppError("bad_request", "The body is not a JSON object.", { place: { pointer: "" } });
  }
  const request: Record<string, unknown> = { type: requestType };
  for (const [name, value] of Object.entries(body)) request[ALIASES[name] ?? name] = value;
  const options = { ...(typeof request["options"] === "object" ? request["options"] : {}) } as Record<string, unknown>;
  for (const name of OLD_OPTION_FIELDS) {
    if (typeof request[name] !== "boolean") continue;
    options[name] = request[name];
    delete request[name];
  }
  if (Object.keys(options).length > 0 || "options" in request) request["options"] = options;
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
