/** `dynamos steward`: credentials at store and broker, for the core and for each party. */
import { parseArgs } from "node:util";
import type { PartyRole } from "../../lib/access/identities.ts";
import { openBusUsers } from "../../lib/bus/open-users.ts";
import { AppError } from "../../lib/errors.ts";
import { openStoreUsers } from "../../lib/knowledge/open-users.ts";
import { isStewardName } from "../../lib/model/names.ts";
import { CredentialsFolder } from "../credentials/credentials-folder.ts";
import { addCore, addParty, listCredentials, removeParty, type Servers } from "../credentials/credentials.ts";

type Write = (line: string) => void;

const SERVERS = "--store URL --broker URL --broker-management URL";
const USES = [
  `dynamos steward add NAME --out FOLDER ${SERVERS}`,
  "            [--role dataProvider|thirdParty|both] [--partners NAME,NAME…] [--mount FOLDER] [--untried]",
  `dynamos steward add --core --out FOLDER ${SERVERS} [--mount FOLDER] [--untried]`,
  `dynamos steward remove NAME ${SERVERS}`,
  `dynamos steward list ${SERVERS}`,
];

const ROLES: readonly PartyRole[] = ["dataProvider", "thirdParty", "both"];

const OPTIONS = {
  store: { type: "string" },
  broker: { type: "string" },
  "broker-management": { type: "string" },
  out: { type: "string" },
  mount: { type: "string" },
  role: { type: "string", default: "dataProvider" },
  partners: { type: "string" },
  core: { type: "boolean", default: false },
  untried: { type: "boolean", default: false },
} as const;

type Values = ReturnType<typeof parse>["values"];

/** Runs `add`, `remove` or `list`; the exit code is 0, 1 when there was nothing to remove, or 2 for a wrong command line. */
export async function steward(
  args: string[],
  write: Write,
  note: Write = (line) => console.error(line),
): Promise<number> {
  const [command = "", ...rest] = args;
  const { values, positionals } = parse(rest);
  const [name, ...more] = positionals;
  const isNamed = name !== undefined && more.length === 0;
  if (command === "add" && isNamed !== values.core && more.length === 0 && values.out !== undefined) {
    return withServers(values, (servers) => add(servers, name, values.out ?? "", values, write));
  }
  if (command === "remove" && isNamed) {
    requireName(name);
    return withServers(values, (servers) => remove(servers, name, write));
  }
  if (command === "list" && positionals.length === 0) return withServers(values, (servers) => list(servers, write));
  for (const [index, use] of USES.entries()) note(index === 0 ? `Use: ${use}` : `     ${use}`);
  return 2;
}

function parse(args: string[]) {
  try {
    return parseArgs({ args, options: OPTIONS, allowPositionals: true });
  } catch (error) {
    throw new AppError("invalid_argument", (error as Error).message, { cause: error });
  }
}

async function withServers(values: Values, work: (servers: Servers) => Promise<number>): Promise<number> {
  const store = await openStoreUsers(required(values, "store"));
  try {
    const bus = await openBusUsers(required(values, "broker"), required(values, "broker-management"));
    return await work({ bus, store });
  } finally {
    store.close();
  }
}

async function add(
  servers: Servers,
  name: string | undefined,
  out: string,
  { mount, role, partners, untried }: Values,
  write: Write,
): Promise<number> {
  const options = { isTried: !untried };
  const access = name === undefined ? undefined : { steward: name, role: roleOf(role), ...partnersOf(partners) };
  const folder = await CredentialsFolder.make(out, mount);
  if (access === undefined) await addCore(servers, folder, options);
  else await addParty(servers, access, folder, options);
  write(`The credentials of ${name ?? "the core"} are in ${out}: settings.env, and the files that it names.`);
  return 0;
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

function required(values: Values, name: "store" | "broker" | "broker-management"): string {
  const value = values[name];
  if (value !== undefined) return value;
  throw new AppError("invalid_argument", `--${name} is missing: name the server with one who may make users.`);
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
