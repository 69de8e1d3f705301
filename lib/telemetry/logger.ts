/**
 * Logs: JSON lines on standard output, with our fields. They never carry a row, a query text, a secret or an e-mail at the
 * default level: what could is redacted here, as a second line of defence behind not logging it.
 */
import { pino, type DestinationStream, type Logger as PinoLogger } from "pino";
import { stackFrames } from "../errors.ts";

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
      serializers: { error: (error: unknown) => serializeError(error) },
    },
    destination ?? pino.destination({ dest: 1, sync: true }),
  );
}

const HIDDEN = "[not logged]";

/**
 * Code, message and stack of an error and its causes, without its details: these may quote what the analyst sent. Where a
 * message is hidden, those of the causes are, too: most often it was made from theirs.
 */
function serializeError(error: unknown, isInHidden = false): Record<string, unknown> {
  if (!(error instanceof Error)) return { message: isInHidden ? HIDDEN : String(error) };
  const code = (error as { code?: unknown }).code;
  const party = (error as { party?: unknown }).party;
  // SQLite and JSON parsers quote their input in their messages.
  const mayQuoteInput =
    isInHidden || code === "query_invalid" || code === "bad_request" || error instanceof SyntaxError;
  return {
    name: error.name,
    ...(typeof code === "string" ? { code } : {}),
    ...(typeof party === "string" ? { party } : {}),
    message: mayQuoteInput ? HIDDEN : error.message,
    // The stack begins with the message.
    ...(code === undefined || code === "internal" ? { stack: mayQuoteInput ? stackFrames(error) : error.stack } : {}),
    ...(error.cause === undefined ? {} : { cause: serializeError(error.cause, mayQuoteInput) }),
  };
}
