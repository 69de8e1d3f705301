/** The users of a message bus that is a broker. An embedded one has none: whoever may open its file may do everything. */
import type { PartyAccess } from "../access/identities.ts";
import { CORE_USER, agentUser, chainUser } from "../access/identities.ts";
import { AppError } from "../errors.ts";
import { type RabbitMqAddress, brokersAt, parseRabbitMqUrl, urlForUser } from "./rabbitmq-address.ts";
import { agentPermissions, chainPermissions, corePermissions, ownQueues } from "./rabbitmq-permissions.ts";
import { type RabbitMqUsers, openRabbitMqUsers } from "./rabbitmq-users.ts";

/** Where a user's secrets lie. */
export interface UserFiles {
  readonly passwordFile: string;
  /** Absent: the authorities that Node.js trusts. */
  readonly caFile?: string;
}

/**
 * Opens the users of the broker at `brokerUrl` (its own user does not count), by its management API at `managementUrl`. Fails
 * with `configuration_invalid`, `unavailable` or `access_refused`.
 *
 * @param partyAddress `host[:port][,host[:port]…]` of the broker for its users; absent: those of `brokerUrl`.
 */
export async function openBusUsers(brokerUrl: string, managementUrl: string, partyAddress?: string): Promise<BusUsers> {
  if (!/^amqps?:/.test(brokerUrl)) {
    throw new AppError(
      "configuration_invalid",
      "Only RabbitMQ has users: the broker's URL begins with amqp:// or amqps://.",
    );
  }
  const address = parseRabbitMqUrl(brokerUrl);
  const forUsers = partyAddress === undefined ? address : brokersAt(address, partyAddress);
  return new BusUsers({ address, forUsers }, await openRabbitMqUsers({ managementUrl, vhost: address.vhost }));
}

/** Users with the rights that `rabbitmq-permissions.ts` describes. */
export class BusUsers {
  readonly #address: RabbitMqAddress;
  readonly #forUsers: RabbitMqAddress;
  readonly #users: RabbitMqUsers;

  constructor(
    { address, forUsers }: { readonly address: RabbitMqAddress; readonly forUsers: RabbitMqAddress },
    users: RabbitMqUsers,
  ) {
    this.#address = address;
    this.#forUsers = forUsers;
    this.#users = users;
  }

  /** The file with the authorities that the broker's certificate is from, as the URL names it. */
  get caFile(): string | undefined {
    return this.#address.files.caFile;
  }

  /** The names of all users of this bus. */
  list(): Promise<readonly string[]> {
    return this.#users.list();
  }

  /** Makes the core's user, or changes its password. */
  putCore(password: string): Promise<void> {
    return this.#users.put(CORE_USER, password, corePermissions());
  }

  /** Makes the user of a party's agent, or changes its password and rights. */
  putAgent(party: PartyAccess, password: string): Promise<void> {
    return this.#users.put(agentUser(party.steward), password, agentPermissions(party));
  }

  /** Makes the user of a party's chains, or changes its password and rights. */
  putChain(party: PartyAccess, password: string): Promise<void> {
    return this.#users.put(chainUser(party.steward), password, chainPermissions(party));
  }

  /** Removes a party's users, which ends their connections, and then its queues with what is in them. */
  async remove(steward: string): Promise<void> {
    await this.#users.remove(agentUser(steward));
    await this.#users.remove(chainUser(steward));
    await this.#users.removeQueues(ownQueues({ steward }));
  }

  /** What a user's programs are given. */
  urlFor(user: string, files: UserFiles): string {
    return urlForUser(this.#forUsers, { user, ...files });
  }

  /** The same by our own address, with files where we see them. */
  trialUrlFor(user: string, files: UserFiles): string {
    return urlForUser(this.#address, { user, ...files });
  }
}
