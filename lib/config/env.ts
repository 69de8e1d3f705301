/** The only reader of `process.env`: a schema goes in, typed settings or the list of all faults come out. */
import { type Static, type TObject } from "@sinclair/typebox";
import { Value } from "@sinclair/typebox/value";
import { AppError } from "../errors.ts";

/** The source of settings: names to texts. */
export type Environment = Readonly<Record<string, string | undefined>>;

/**
 * Settings of a program. The schema's keys are names of environment variables; texts are converted to numbers and booleans
 * as the schema says, and defaults are filled in. An empty variable counts as absent.
 *
 * @throws AppError `configuration_invalid` that lists every fault, without the values (they may be secrets).
 */
export function loadSettings<Schema extends TObject>(
  schema: Schema,
  source: Environment = process.env,
): Static<Schema> {
  const given: Record<string, unknown> = {};
  for (const name of Object.keys(schema.properties)) {
    const text = source[name];
    if (text !== undefined && text !== "") given[name] = text;
  }
  const settings = Value.Default(schema, Value.Convert(schema, given));
  const faults = [...Value.Errors(schema, settings)].map((fault) => {
    const name = fault.path.slice(1);
    const description = schema.properties[name]?.description;
    return `${name}: ${name in given ? fault.message.toLowerCase() : "missing"}${description ? ` (${description})` : ""}`;
  });
  if (faults.length > 0) {
    throw new AppError("configuration_invalid", `Settings are wrong. ${[...new Set(faults)].join("; ")}.`, {
      details: { settings: [...new Set(faults)] },
    });
  }
  return settings as Static<Schema>;
}

/** The variables that a child process needs to run at all, from this process's own environment. */
export function baseEnvironment(source: Environment = process.env): Record<string, string> {
  const kept: Record<string, string> = {};
  for (const name of ["PATH", "TZ", "LANG", "TMPDIR", "SystemRoot"]) {
    const value = source[name];
    if (value !== undefined) kept[name] = value;
  }
  return kept;
}

/**
 * The standard OpenTelemetry variables of this process, for those that it starts: where and how all of them export. What names
 * this process alone stays behind, and so do headers: they may hold a collector's secret, and a chain may be anybody's.
 */
export function telemetryEnvironment(source: Environment = process.env): Record<string, string> {
  return Object.fromEntries(
    Object.entries(source).flatMap(([name, value]) =>
      isForChildren(name) && value !== undefined ? [[name, value]] : [],
    ),
  );
}

function isForChildren(name: string): boolean {
  return name.startsWith("OTEL_") && name !== "OTEL_SERVICE_NAME" && !name.endsWith("_HEADERS");
}

/** The PEM file of authorities that Node trusts besides its own list (`NODE_EXTRA_CA_CERTS`). */
export function extraAuthoritiesFile(source: Environment = process.env): string | undefined {
  const path = source["NODE_EXTRA_CA_CERTS"];
  return path === "" ? undefined : path;
}
