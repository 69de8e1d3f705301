/** The users of a knowledge store that is a server. A SQLite one has none: whoever may open its file may do everything. */
import type { PartyAccess } from "../access/identities.ts";
import { CORE_USER, agentUser } from "../access/identities.ts";
import { AppError } from "../errors.ts";
import { agentRights, coreRights, partyPrefixes } from "./etcd-permissions.ts";
import { type EtcdPlace, parseEtcdUrl, placeAt, urlForUser } from "./etcd-url.ts";
import { type EtcdUsers, openEtcdUsers, switchOnEtcdUsers } from "./etcd-users.ts";
import { parseKnowledgeStoreUrl } from "./open.ts";

/** Where a user's secrets lie. */
export interface UserFiles {
  readonly passwordFile: string;
  /** Absent: the authorities that Node.js trusts. */
  readonly caFile?: string;
}

/** How {@link openStoreUsers} opens them. */
export interface StoreUsersOptions {
  /** `host:port[,host:port…]` of the store for its users; absent: those of the URL. */
  readonly partyAddress?: string | undefined;
  /** Switches users on where they are off: see {@link switchOnEtcdUsers}. */
  readonly switchesOn?: boolean;
}

/** Opens the users of the store at a URL, as the user in it. Fails with `configuration_invalid`, `unavailable` or `access_refused`. */
export async function openStoreUsers(
  url: string,
  { partyAddress, switchesOn = false }: StoreUsersOptions = {},
): Promise<StoreUsers> {
  if (parseKnowledgeStoreUrl(url).kind !== "etcd") {
    throw new AppError(
      "configuration_invalid",
      "Only etcd has users: the store's URL begins with etcd:// or etcds://.",
    );
  }
  const place = parseEtcdUrl(url);
  const forUsers = partyAddress === undefined ? place : placeAt(place, partyAddress);
  if (switchesOn) await switchOnEtcdUsers(url);
  return new StoreUsers({ place, forUsers }, await openEtcdUsers(url));
}

/** Users with the rights that `etcd-permissions.ts` describes. Close it in the end. */
export class StoreUsers {
  readonly #place: EtcdPlace;
  readonly #forUsers: EtcdPlace;
  readonly #users: EtcdUsers;

  constructor({ place, forUsers }: { readonly place: EtcdPlace; readonly forUsers: EtcdPlace }, users: EtcdUsers) {
    this.#place = place;
    this.#forUsers = forUsers;
    this.#users = users;
  }

  /** The file with the authorities that the store's certificate is from, as the URL names it. */
  get caFile(): string | undefined {
    return this.#place.files.caFile;
  }

  /** The names of all users of this store. */
  list(): Promise<readonly string[]> {
    return this.#users.list();
  }

  /** Makes the core's user, or changes its password. */
  putCore(password: string): Promise<void> {
    return this.#users.put(CORE_USER, password, coreRights());
  }

  /** Makes the user of a party's agent, or changes its password and rights. */
  putAgent(party: PartyAccess, password: string): Promise<void> {
    return this.#users.put(agentUser(party.steward), password, agentRights(party));
  }

  /** Removes the user of a party's agent, and then its own records, so that the party is offline at once. */
  remove(steward: string): Promise<void> {
    return this.#users.remove(agentUser(steward), partyPrefixes(steward));
  }

  /** What a user's programs are given. */
  urlFor(user: string, files: UserFiles): string {
    return urlForUser(this.#forUsers, { user, ...files });
  }

  /** The same by our own address, with files where we see them. */
  trialUrlFor(user: string, files: UserFiles): string {
    return urlForUser(this.#place, { user, ...files });
  }

  close(): void {
    this.#users.close();
  }
}
