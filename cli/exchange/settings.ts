/**
 * Where an exchange's store and bus are, and how its parts are spread: from the command line, the environment, or
 * `exchange.json` in the configuration folder; what comes first in this order counts, each setting for itself.
 */
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { Type, type Static } from "@sinclair/typebox";
import { embeddedBusUrl, parseEmbeddedBusUrl } from "../../lib/bus/open.ts";
import { loadSettings, type Environment } from "../../lib/config/env.ts";
import { readJsonFile } from "../../lib/config/json-file.ts";
import { AppError } from "../../lib/errors.ts";
import { parseKnowledgeStoreUrl } from "../../lib/knowledge/open.ts";
import type { PartSettings } from "./part-settings.ts";
import { partProcesses, type Replicas, type SidecarPlacement } from "./parts.ts";

/** Most processes of one part; more on one machine is a slip of the pen. */
const MAX_REPLICAS = 16;

const SIDECAR_PLACEMENTS: readonly SidecarPlacement[] = ["inProcess", "separate"];
// A pattern rather than a union: its fault says which words there are.
const Sidecar = Type.String({ pattern: `^(${SIDECAR_PLACEMENTS.join("|")})$` });
const Count = Type.Integer({ minimum: 1, maximum: MAX_REPLICAS });

/** `exchange.json`. `docs/configuration.md` lists it; a test compares. */
export const ExchangeFile = Type.Object(
  {
    store: Type.Optional(Type.String({ minLength: 1 })),
    bus: Type.Optional(Type.String({ minLength: 1 })),
    sidecar: Type.Optional(Sidecar),
    replicas: Type.Optional(
      Type.Object(
        {
          orchestrator: Type.Optional(Count),
          policyEnforcer: Type.Optional(Count),
          agent: Type.Optional(Type.Union([Count, Type.Record(Type.String(), Count)])),
        },
        { additionalProperties: false },
      ),
    ),
    settings: Type.Optional(Type.Record(Type.String(), Type.Record(Type.String(), Type.String()))),
  },
  { additionalProperties: false },
);
type ExchangeFile = Static<typeof ExchangeFile>;

/** Environment of the commands that start an exchange. `docs/configuration.md` lists it; a test compares. */
export const CommandSettings = Type.Object({
  DYNAMOS_STORE: Type.Optional(Type.String({ description: "knowledge store, for example etcd://localhost:2379" })),
  DYNAMOS_BUS: Type.Optional(Type.String({ description: "message bus, for example amqp://localhost:5672" })),
  DYNAMOS_SIDECAR: Type.Optional({ ...Sidecar, description: "inProcess or separate" }),
  DYNAMOS_REPLICAS: Type.Optional({
    ...Count,
    description: `processes of each part, 1 to ${String(MAX_REPLICAS)}`,
  }),
});

/** Options of the command line, as they were written. */
export interface ExchangeFlags {
  readonly store?: string | undefined;
  readonly bus?: string | undefined;
  readonly sidecar?: string | undefined;
  readonly replicas?: string | undefined;
  /** Each `PART:NAME=VALUE`. */
  readonly set?: readonly string[] | undefined;
}

/** The flags as `parseArgs` takes them. */
export const EXCHANGE_FLAGS = {
  store: { type: "string" },
  bus: { type: "string" },
  sidecar: { type: "string" },
  replicas: { type: "string" },
  set: { type: "string", multiple: true },
} as const satisfies Record<keyof ExchangeFlags, { type: "string"; multiple?: true }>;

/** As `startExchange` takes them; what is absent has that one's default. */
export interface ExchangeSettings {
  readonly storeUrl?: string;
  readonly busUrl?: string;
  readonly sidecar?: SidecarPlacement;
  readonly replicas?: Replicas;
  readonly environmentOf?: PartSettings;
}

/**
 * The settings for the exchange of a configuration folder.
 *
 * @throws AppError `invalid_argument` for a flag, `configuration_invalid` for a variable or the file, with its place.
 */
export async function exchangeSettings(
  flags: ExchangeFlags,
  folder: string,
  environment?: Environment,
): Promise<ExchangeSettings> {
  const given = fromFlags(flags);
  const variables = loadSettings(CommandSettings, environment);
  const file = await readExchangeFile(folder);
  const storeUrl = given.storeUrl ?? variables.DYNAMOS_STORE ?? file.store;
  const busUrl = given.busUrl ?? variables.DYNAMOS_BUS ?? file.bus;
  const sidecar = given.sidecar ?? variables.DYNAMOS_SIDECAR ?? file.sidecar;
  const count = given.replicas ?? variables.DYNAMOS_REPLICAS;
  const replicas = count === undefined ? file.replicas : { orchestrator: count, policyEnforcer: count, agent: count };
  const environmentOf = mergeSettings(file.settings ?? {}, (flags.set ?? []).map(partSetting));
  if (Object.keys(environmentOf).length > 0) await requireKnown(environmentOf, folder, replicas);
  return {
    ...(storeUrl === undefined ? {} : { storeUrl: absoluteStoreUrl(storeUrl) }),
    ...(busUrl === undefined ? {} : { busUrl: absoluteBusUrl(busUrl) }),
    ...(sidecar === undefined ? {} : { sidecar: sidecar as SidecarPlacement }),
    ...(replicas === undefined ? {} : { replicas: replicas }),
    ...(Object.keys(environmentOf).length === 0 ? {} : { environmentOf }),
  };
}

function fromFlags({ store, bus, sidecar, replicas }: ExchangeFlags) {
  const count = Number(replicas ?? "1");
  if (!Number.isInteger(count) || count < 1 || count > MAX_REPLICAS) {
    throw new AppError(
      "invalid_argument",
      `--replicas ${replicas ?? ""}: write a number from 1 to ${String(MAX_REPLICAS)}.`,
    );
  }
  if (sidecar !== undefined && !isPlacement(sidecar)) {
    throw new AppError("invalid_argument", `--sidecar ${sidecar}: write ${SIDECAR_PLACEMENTS.join(" or ")}.`);
  }
  return {
    storeUrl: store,
    busUrl: bus,
    sidecar,
    replicas: replicas === undefined ? undefined : count,
  };
}

interface PartSetting {
  readonly part: string;
  readonly name: string;
  readonly value: string;
}

function partSetting(text: string): PartSetting {
  const [, part, name, value] = /^([^:=]+):([^:=]+)=(.*)$/s.exec(text) ?? [];
  if (part !== undefined && name !== undefined && value !== undefined) return { part, name, value };
  // What was meant as a value stays out of messages.
  const shown = text.replace(/=.*$/s, "=…");
  throw new AppError(
    "invalid_argument",
    `--set ${shown}: write PART:NAME=VALUE, such as agent-VU:DYNAMOS_WARM_CHAINS=2.`,
  );
}

/** Loaded for whoever sets something: it takes all parts' settings with it. */
async function requireKnown(settings: PartSettings, folder: string, replicas: Replicas = {}): Promise<void> {
  const [{ requirePartSettings }, { readConfigurationFolder }] = await Promise.all([
    import("./part-settings.ts"),
    import("./configuration-folder.ts"),
  ]);
  const { parties } = await readConfigurationFolder(folder);
  const { enforcers, orchestrators, agents } = partProcesses(parties, replicas);
  requirePartSettings(settings, [...enforcers, ...orchestrators, ...agents]);
}

function mergeSettings(file: PartSettings, given: readonly PartSetting[]): PartSettings {
  const merged: Record<string, Readonly<Record<string, string>>> = { ...file };
  for (const { part, name, value } of given) merged[part] = { ...merged[part], [name]: value };
  return merged;
}

async function readExchangeFile(folder: string): Promise<ExchangeFile> {
  const path = join(resolve(folder), "exchange.json");
  return existsSync(path) ? readJsonFile(path, ExchangeFile) : {};
}

function isPlacement(text: string): text is SidecarPlacement {
  return SIDECAR_PLACEMENTS.some((each) => each === text);
}

/** Programs may have another working folder than the reader of the command line. */
function absoluteStoreUrl(url: string): string {
  const parsed = parseKnowledgeStoreUrl(url);
  return parsed.kind === "sqlite" ? `sqlite:${resolve(parsed.path)}` : url;
}

function absoluteBusUrl(url: string): string {
  const place = parseEmbeddedBusUrl(url);
  return place === undefined ? url : embeddedBusUrl({ ...place, path: resolve(place.path) });
}
