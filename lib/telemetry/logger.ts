/**
 * Logs: JSON lines on standard output, with our fields. They never carry a row, a query text, a secret or an e-mail at the
 * default level: what could is redacted here, as a second line of defence behind not logging it.
 */
import { pino, type DestinationStream, type Logger as PinoLogger } from "pino";

/** The logger that everything takes as an argument. */
export type Logger = PinoLogger;

/** Members that are never printed, at any depth that we log (two). */
const REDACTED = [
  "authorization",
  "accessToken",
  "refreshToken",
  "token",
  "password",
  "secret",
  "query",
  "rows",
  "user",
  "userName",
  "email",
  "grant",
];

/**
 * A logger for one component.
 *
 * @param component for example `agent`; a field of every line.
 * @param fields further fields of every line, for example the steward.
 * @param level pino's levels; default `info`.
 */
export function createLogger(
  component: string,
  fields: Readonly<Record<string, string>> = {},
  level = "info",
  destination?: DestinationStream,
): Logger {
  return pino(
    {
      level,
      base: { component, ...fields },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      redact: { paths: REDACTED.flatMap((name) => [name, `*.${name}`, `*.*.${name}`]), censor: "[redacted]" },
      serializers: { error: serializeError },
    },
    destination ?? pino.destination({ dest: 1, sync: true }),
  );
}

/** Code, message and stack of an error, without its details: these may quote what the analyst sent. */
function serializeError(error: unknown): Record<string, unknown> {
  if (!(error instanceof Error)) return { message: String(error) };
  const code = (error as { code?: unknown }).code;
  const party = (error as { party?: unknown }).party;
  // SQLite and JSON parsers quote their input in their messages.
  const mayQuoteInput = code === "query_invalid" || code === "bad_request";
  return {
    name: error.name,
    ...(typeof code === "string" ? { code } : {}),
    ...(typeof party === "string" ? { party } : {}),
    message: mayQuoteInput ? "[not logged]" : error.message,
    ...(code === undefined || code === "internal" ? { stack: error.stack } : {}),
    ...(error.cause === undefined ? {} : { cause: serializeError(error.cause) }),
  };
}
