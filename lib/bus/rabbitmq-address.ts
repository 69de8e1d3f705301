/** Where RabbitMQ is and who comes: the bus's URL taken apart, and what its files say at the moment. */

import { readFile } from "node:fs/promises";
import { AppError } from "../errors.ts";

/** A bus URL's parts: `amqp[s]://[user[:password]@]host[:port][,host[:port]…][/vhost][?name=value…]`. */
export interface RabbitMqAddress {
  readonly isTls: boolean;
  /** One broker, or the nodes of one cluster. */
  readonly hosts: readonly RabbitMqHost[];
  readonly vhost: string;
  readonly user: string;
  /** Undefined when a file has it. */
  readonly password: string | undefined;
  readonly files: Readonly<Partial<Record<FileName, string>>>;
  /** The URL without what is secret: for messages. */
  readonly label: string;
}

/** One node. */
export interface RabbitMqHost {
  readonly hostname: string;
  readonly port: number;
}

/** What a connection is made with: read anew for each, so that secrets and certificates change without a restart. */
export interface RabbitMqCredentials {
  readonly password: string;
  readonly ca?: Buffer;
  readonly cert?: Buffer;
  readonly key?: Buffer;
}

type FileName = "passwordFile" | "caFile" | "certFile" | "keyFile";

const FILE_NAMES: readonly FileName[] = ["passwordFile", "caFile", "certFile", "keyFile"];
const FORM =
  "amqp[s]://[user[:password]@]host[:port][,host[:port]…][/vhost][?passwordFile=…&caFile=…&certFile=…&keyFile=…]";
const URL_PARTS = /^(amqps?):\/\/(?:([^@/?#]*)@)?([^@/?#]+)(?:\/([^/?#]*))?(?:\?([^#]*))?$/;
const HOST_PARTS = /^(\[[0-9A-Fa-f:.]+\]|[^:[\]]+)(?::(\d{1,5}))?$/;

/** The parts of a bus URL; `configuration_invalid` that shows nothing secret when it is none. */
export function parseRabbitMqUrl(url: string): RabbitMqAddress {
  const [, scheme, credentials, hostList = "", path = "", query = ""] = URL_PARTS.exec(url) ?? [];
  if (scheme === undefined) throw invalid(`It has the form ${FORM}.`);
  const isTls = scheme === "amqps";
  const hosts = hostList.split(",").map((text) => parseHost(text, isTls ? 5671 : 5672));
  const [user = "guest", password] = (credentials ?? "guest:guest").split(/:(.*)/s).map(decoded);
  const files = parseFiles(query, isTls);
  if (password !== undefined && credentials !== undefined && files.passwordFile !== undefined)
    throw invalid("It has a password and a passwordFile: keep one.");
  const vhost = path === "" ? "/" : decoded(path);
  const places = hosts.map(({ hostname, port }) => `${hostname}:${port}`).join(",");
  return {
    isTls,
    hosts,
    vhost,
    user,
    password: files.passwordFile === undefined ? (password ?? "") : undefined,
    files,
    label: `${scheme}://${user}@${places}/${vhost === "/" ? "" : vhost}`,
  };
}

/** A URL for the same brokers and virtual host by another user, whose password and certificates lie in files. */
export function urlForUser(
  { isTls, hosts, vhost }: RabbitMqAddress,
  login: { readonly user: string; readonly passwordFile: string; readonly caFile?: string },
): string {
  const { user, ...files } = login;
  const places = hosts.map(({ hostname, port }) => `${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}`);
  const path = vhost === "/" ? "" : `/${encodeURIComponent(vhost)}`;
  const query = new URLSearchParams(files).toString();
  return `${isTls ? "amqps" : "amqp"}://${encodeURIComponent(user)}@${places.join(",")}${path}?${query}`;
}

/** The same brokers for those who reach them by other addresses, `host[:port][,host[:port]…]`. Fails with `configuration_invalid`. */
export function brokersAt(address: RabbitMqAddress, addresses: string): RabbitMqAddress {
  const { hosts } = parseRabbitMqUrl(`${address.isTls ? "amqps" : "amqp"}://${addresses}`);
  return { ...address, hosts };
}

/** Reads the address's files; `configuration_invalid` naming one that cannot be read. */
export async function readCredentials(address: RabbitMqAddress): Promise<RabbitMqCredentials> {
  const { passwordFile, caFile, certFile, keyFile } = address.files;
  const [secret, ca, cert, key] = await Promise.all(
    [passwordFile, caFile, certFile, keyFile].map(async (path) => (path === undefined ? undefined : read(path))),
  );
  return {
    // Files that people write end with a line break.
    password: secret?.toString("utf8").replace(/\r?\n$/, "") ?? address.password ?? "",
    ...(ca === undefined ? {} : { ca }),
    ...(cert === undefined ? {} : { cert }),
    ...(key === undefined ? {} : { key }),
  };
}

function parseHost(text: string, defaultPort: number): RabbitMqHost {
  const [, name, port] = HOST_PARTS.exec(text) ?? [];
  if (name === undefined || Number(port ?? defaultPort) > 65_535) throw invalid(`One of its hosts is none. ${FORM}`);
  return { hostname: name.replace(/^\[|\]$/g, ""), port: Number(port ?? defaultPort) };
}

function parseFiles(query: string, isTls: boolean): RabbitMqAddress["files"] {
  const files: Partial<Record<FileName, string>> = {};
  for (const [name, path] of new URLSearchParams(query)) {
    const known = FILE_NAMES.find((each) => each === name);
    if (known === undefined || path === "")
      throw invalid(`Its parameters are ${FILE_NAMES.join(", ")}, each with a path; not "${name}".`);
    if (known !== "passwordFile" && !isTls) throw invalid(`${known} is for TLS: write amqps://.`);
    files[known] = path;
  }
  if ((files.certFile === undefined) !== (files.keyFile === undefined))
    throw invalid("certFile and keyFile belong together.");
  return files;
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw invalid("A percent sign in it begins no encoded character: write it as %25.");
  }
}

async function read(path: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (cause) {
    throw new AppError("configuration_invalid", `The file "${path}" of the message bus's URL cannot be read.`, {
      cause,
    });
  }
}

function invalid(fault: string): AppError {
  // The URL itself may hold a password, so it is not shown.
  return new AppError("configuration_invalid", `The message bus's amqp URL is wrong. ${fault}`);
}
