/** Makes, changes, removes and lists the credentials of an exchange's parts at store and broker. */
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import {
  CORE_USER,
  agentUser,
  chainUser,
  requireDistinct,
  stewardOf,
  type PartyAccess,
} from "../../lib/access/identities.ts";
import type { BusUsers } from "../../lib/bus/open-users.ts";
import { openMessageBus } from "../../lib/bus/open.ts";
import { AppError, toAppError } from "../../lib/errors.ts";
import type { StoreUsers } from "../../lib/knowledge/open-users.ts";
import { openKnowledgeStore } from "../../lib/knowledge/open.ts";
import { secretFileText } from "../../lib/secret-files.ts";
import type { CredentialsFolder, Service, ServiceFiles } from "./credentials-folder.ts";

/** Where users are made. */
export interface Servers {
  readonly bus: BusUsers;
  readonly store: StoreUsers;
}

/** Who has credentials, and where. */
export interface CredentialsEntry {
  /** Undefined for the core. */
  readonly steward: string | undefined;
  readonly atBus: boolean;
  readonly atStore: boolean;
}

/** Whether new credentials are tried at once: not where store and broker have other addresses for their users than for us. */
export interface TrialOptions {
  readonly isTried: boolean;
}

const PASSWORD_BYTES = 32;

/** Makes the core's credentials, or new passwords for it, and writes its folder. */
export async function addCore(servers: Servers, folder: CredentialsFolder, { isTried }: TrialOptions): Promise<void> {
  const { bus, store } = servers;
  await addAuthorities(servers, folder);
  await folder.addSettings({
    DYNAMOS_STORE: store.urlFor(CORE_USER, folder.files("store")),
    DYNAMOS_BUS: bus.urlFor(CORE_USER, folder.files("bus")),
  });
  await withNewPassword(folder, "store", (password) => store.putCore(password));
  await withNewPassword(folder, "bus", (password) => bus.putCore(password));
  if (isTried) await tryCore(servers, (service) => folder.files(service, true));
}

/**
 * Makes the core's credentials with the passwords that a folder has, `store-password` and `bus-password`: where these were made by
 * somebody else, such as a Helm release. The folder stays as it is, and a repeat changes nothing.
 */
export async function addGivenCore(servers: Servers, folder: string, { isTried }: TrialOptions): Promise<void> {
  const { bus, store } = servers;
  const fileOf = (service: Service): string => join(folder, `${service}-password`);
  const [storePassword, busPassword] = await Promise.all([
    secretFileText(fileOf("store")),
    secretFileText(fileOf("bus")),
  ]);
  await store.putCore(storePassword);
  await bus.putCore(busPassword);
  if (!isTried) return;
  await tryCore(servers, (service) => {
    const { caFile } = servers[service];
    return { passwordFile: fileOf(service), ...(caFile === undefined ? {} : { caFile }) };
  });
}

/** Makes the credentials of a party's agent and chains, or new passwords and rights for them, and writes its folder. */
export async function addParty(
  servers: Servers,
  party: PartyAccess,
  folder: CredentialsFolder,
  { isTried }: TrialOptions,
): Promise<void> {
  const { bus, store } = servers;
  const { steward } = party;
  const listed = await listCredentials(servers);
  requireDistinct(
    steward,
    listed.flatMap((entry) => entry.steward ?? []),
  );
  const agent = agentUser(steward);
  const chain = chainUser(steward);
  const chainFolder = await folder.below("chain");
  await addAuthorities(servers, folder);
  await chainFolder.addAuthorities("bus", bus.caFile);
  await folder.addSettings({
    DYNAMOS_STEWARD: steward,
    DYNAMOS_STORE: store.urlFor(agent, folder.files("store")),
    DYNAMOS_BUS: bus.urlFor(agent, folder.files("bus")),
    DYNAMOS_CHAIN_BUS: bus.urlFor(chain, chainFolder.files("bus")),
  });
  await withNewPassword(folder, "store", (password) => store.putAgent(party, password));
  await withNewPassword(folder, "bus", (password) => bus.putAgent(party, password));
  await withNewPassword(chainFolder, "bus", (password) => bus.putChain(party, password));
  if (!isTried) return;
  await tryStore(store.trialUrlFor(agent, folder.files("store", true)));
  await tryBus(bus.trialUrlFor(agent, folder.files("bus", true)));
  await tryBus(bus.trialUrlFor(chain, chainFolder.files("bus", true)));
}

/**
 * Takes a party's credentials away, with its records and queues; its documents stay, such as its agreement. Whether there were any.
 */
export async function removeParty(servers: Servers, steward: string): Promise<boolean> {
  const wasThere = (await listCredentials(servers)).some((entry) => entry.steward === steward);
  // First the store: without its records nobody sends it work any more.
  await servers.store.remove(steward);
  await servers.bus.remove(steward);
  return wasThere;
}

/** Who has credentials, the core first. */
export async function listCredentials({ bus, store }: Servers): Promise<readonly CredentialsEntry[]> {
  const atBus = new Set(await bus.list());
  const atStore = new Set(await store.list());
  return [...new Set([...atBus, ...atStore])]
    .filter((user) => user === CORE_USER || stewardOf(user) !== undefined)
    .map((user) => ({ steward: stewardOf(user), atBus: atBus.has(user), atStore: atStore.has(user) }))
    .sort((one, other) => (one.steward ?? "").localeCompare(other.steward ?? "", "en"));
}

async function addAuthorities({ bus, store }: Servers, folder: CredentialsFolder): Promise<void> {
  await folder.addAuthorities("store", store.caFile);
  await folder.addAuthorities("bus", bus.caFile);
}

/** The file follows the server at once: whoever connects in between tries again with what it finds there. */
async function withNewPassword(
  folder: CredentialsFolder,
  service: Service,
  put: (password: string) => Promise<void>,
): Promise<void> {
  const password = randomBytes(PASSWORD_BYTES).toString("base64url");
  await put(password);
  await folder.addPassword(service, password);
}

/** Opening the bus makes what every party's agent needs to be there. */
async function tryCore({ bus, store }: Servers, files: (service: Service) => ServiceFiles): Promise<void> {
  await tryStore(store.trialUrlFor(CORE_USER, files("store")));
  await tryBus(bus.trialUrlFor(CORE_USER, files("bus")));
}

async function tryStore(url: string): Promise<void> {
  await tried("store", async () => {
    const store = await openKnowledgeStore(url);
    await store.close();
  });
}

async function tryBus(url: string): Promise<void> {
  await tried("broker", async () => {
    const bus = await openMessageBus(url);
    await bus.close();
  });
}

async function tried(what: string, open: () => Promise<void>): Promise<void> {
  try {
    await open();
  } catch (thrown) {
    const known = toAppError(thrown);
    throw new AppError(
      known.code,
      `The credentials are made, but the ${what} does not let their user work: ${known.message} ` +
        `The core's credentials come first (dynamos steward add --core); where the ${what} has another address for its users, ` +
        `add --untried.`,
      { cause: known },
    );
  }
}
