/** `dynamos steward`: credentials at store and broker, for the core and for each party. */
import { parseArgs } from "node:util";
import type { PartyAccess, PartyRole } from "../../lib/access/identities.ts";
import { openBusUsers } from "../../lib/bus/open-users.ts";
import { type Environment, loadSettings } from "../../lib/config/env.ts";
import { AppError } from "../../lib/errors.ts";
import { openStoreUsers } from "../../lib/knowledge/open-users.ts";
import { isStewardName } from "../../lib/model/names.ts";
import { AdminSettings } from "../credentials/admin-settings.ts";
import { CredentialsFolder } from "../credentials/credentials-folder.ts";
import {
  addCore,
  addGivenCore,
  addParty,
  listCredentials,
  removeParty,
  type Servers,
} from "../credentials/credentials.ts";
import { secretOf } from "../credentials/secret-manifest.ts";
import { whenAvailable } from "../credentials/when-available.ts";
import { STEWARD_USES } from "../usage.ts";

type Write = (line: string) => void;

const ROLES: readonly PartyRole[] = ["dataProvider", "thirdParty", "both"];

const OPTIONS = {
  store: { type: "string" },
  broker: { type: "string" },
  "broker-management": { type: "string" },
  out: { type: "string" },
  mount: { type: "string" },
  secret: { type: "string" },
  given: { type: "string" },
  "party-store-address": { type: "string" },
  "party-broker-address": { type: "string" },
  "enable-auth": { type: "boolean", default: false },
  wait: { type: "string", default: "0" },
  role: { type: "string", default: "dataProvider" },
  partners: { type: "string" },
  core: { type: "boolean", default: false },
  untried: { type: "boolean", default: false },
} as const;

/** Flags that say where the servers are, and the variables that count without them. */
const PLACES = {
  store: "DYNAMOS_ADMIN_STORE",
  broker: "DYNAMOS_ADMIN_BROKER",
  "broker-management": "DYNAMOS_ADMIN_BROKER_MANAGEMENT",
  "party-store-address": "DYNAMOS_PARTY_STORE_ADDRESS",
  "party-broker-address": "DYNAMOS_PARTY_BROKER_ADDRESS",
} as const satisfies Record<string, keyof AdminSettings>;

/** As on a Secret's metadata: a DNS subdomain (RFC 1123). */
const SECRET_NAME = /^[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*$/;
const MAX_SECRET_NAME = 253;
const MAX_WAIT_S = 3600;

type Values = ReturnType<typeof parse>["values"];
type Place = keyof typeof PLACES;

/** What `steward` is called with besides its arguments. */
export interface StewardSurroundings {
  /** Lines for people, where standard output is for something else. */
  readonly note?: Write;
  /** Absent: this process's. */
  readonly environment?: Environment;
}

/** Runs `add`, `remove` or `list`; the exit code is 0, 1 when there was nothing to remove, or 2 for a wrong command line. */
export async function steward(
  args: string[],
  write: Write,
  { note = (line) => console.error(line), environment }: StewardSurroundings = {},
): Promise<number> {
  const [command = "", ...rest] = args;
  const { values, positionals } = parse(rest);
  const [name, ...more] = positionals;
  const isNamed = name !== undefined && more.length === 0;
  const settings = loadSettings(AdminSettings, environment);
  const place = (of: Place): string | undefined => values[of] ?? settings[PLACES[of]];
  if (command === "add" && isNamed !== values.core && more.length === 0 && hasOneTarget(values)) {
    requireSecretName(values.secret);
    return withServers(values, place, (servers) => add(servers, name, values, { write, note }));
  }
  if (command === "remove" && isNamed) {
    requireName(name);
    return withServers(values, place, (servers) => remove(servers, name, write));
  }
  if (command === "list" && positionals.length === 0) {
    return withServers(values, place, (servers) => list(servers, write));
  }
  for (const [index, use] of STEWARD_USES.entries()) note(index === 0 ? `Use: ${use}` : `     ${use}`);
  return 2;
}

function parse(args: string[]) {
  try {
    return parseArgs({ args, options: OPTIONS, allowPositionals: true });
  } catch (error) {
    throw new AppError("invalid_argument", (error as Error).message, { cause: error });
  }
}

/** The credentials go to one place; given passwords are the core's only. */
function hasOneTarget({ out, secret, given, core }: Values): boolean {
  const isOne = [out, secret, given].filter((target) => target !== undefined).length === 1;
  return isOne && (given === undefined || core);
}

async function withServers(
  values: Values,
  place: (of: Place) => string | undefined,
  work: (servers: Servers) => Promise<number>,
): Promise<number> {
  const store = required(place, "store");
  const broker = required(place, "broker");
  const management = required(place, "broker-management");
  const storeOptions = { partyAddress: place("party-store-address"), switchesOn: values["enable-auth"] };
  const attempt = async (): Promise<number> => {
    const storeUsers = await openStoreUsers(store, storeOptions);
    try {
      const bus = await openBusUsers(broker, management, place("party-broker-address"));
      return await work({ bus, store: storeUsers });
    } finally {
      storeUsers.close();
    }
  };
  // Every part of the work may be done twice.
  return whenAvailable(attempt, secondsOf(values.wait) * 1000);
}

async function add(
  servers: Servers,
  name: string | undefined,
  { out, mount, secret, given, role, partners, untried }: Values,
  { write, note }: { readonly write: Write; readonly note: Write },
): Promise<number> {
  const options = { isTried: !untried };
  const whose = name ?? "the core";
  if (given !== undefined) {
    await addGivenCore(servers, given, options);
    write(`The core has the credentials in ${given}.`);
    return 0;
  }
  const access = name === undefined ? undefined : { steward: name, role: roleOf(role), ...partnersOf(partners) };
  const fill = (folder: CredentialsFolder): Promise<void> => addTo(folder, servers, access, options);
  if (secret !== undefined) {
    write(JSON.stringify(await secretOf(secret, name, fill), undefined, 2));
    note(`The Secret above has the credentials of ${whose}: apply it in their namespace.`);
    return 0;
  }
  const folder = out ?? "";
  await fill(await CredentialsFolder.make(folder, mount));
  write(`The credentials of ${whose} are in ${folder}: settings.env, and the files that it names.`);
  return 0;
}

function addTo(
  folder: CredentialsFolder,
  servers: Servers,
  access: PartyAccess | undefined,
  options: { readonly isTried: boolean },
): Promise<void> {
  return access === undefined ? addCore(servers, folder, options) : addParty(servers, access, folder, options);
}

async function remove(servers: Servers, name: string, write: Write): Promise<number> {
  const wasThere = await removeParty(servers, name);
  write(
    wasThere
      ? `${name} has no credentials any more; its agent and chains are cut off.`
      : `${name} had no credentials; what its agent may have left is removed.`,
  );
  return wasThere ? 0 : 1;
}

async function list(servers: Servers, write: Write): Promise<number> {
  for (const { steward: name, atBus, atStore } of await listCredentials(servers)) {
    const missing = [...(atBus ? [] : ["broker"]), ...(atStore ? [] : ["store"])];
    const remark = missing.length === 0 ? "" : `  (not at the ${missing.join(", nor at the ")}: add it again)`;
    write(`${name ?? "(core)"}${remark}`);
  }
  return 0;
}

function required(place: (of: Place) => string | undefined, name: Place): string {
  const value = place(name);
  if (value !== undefined) return value;
  throw new AppError(
    "invalid_argument",
    `--${name} is missing, and ${PLACES[name]} is not set: name the server with one who may make users.`,
  );
}

function secondsOf(text: string): number {
  const seconds = Number(text);
  if (/^\d+$/.test(text) && seconds <= MAX_WAIT_S) return seconds;
  throw new AppError("invalid_argument", `--wait ${text}: write seconds, 0 to ${String(MAX_WAIT_S)}.`);
}

function requireSecretName(name: string | undefined): void {
  if (name === undefined || (SECRET_NAME.test(name) && name.length <= MAX_SECRET_NAME)) return;
  throw new AppError(
    "invalid_argument",
    `--secret ${name}: a Secret's name has small letters, digits, - and ., at most ${String(MAX_SECRET_NAME)}.`,
  );
}

function requireName(name: string): void {
  if (isStewardName(name)) return;
  throw new AppError("invalid_argument", `"${name}" is no party's name: letters and digits, beginning with a letter.`);
}

function roleOf(text: string): PartyRole {
  const role = ROLES.find((each) => each === text);
  if (role !== undefined) return role;
  throw new AppError("invalid_argument", `--role ${text}: write ${ROLES.join(", ")}.`);
}

function partnersOf(text: string | undefined): { readonly partners?: readonly string[] } {
  if (text === undefined) return {};
  const partners = text.split(",").map((name) => name.trim());
  for (const partner of partners) requireName(partner);
  return { partners };
}
