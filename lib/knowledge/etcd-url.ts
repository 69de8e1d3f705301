/**
 * Where an etcd is and how to get in, from one URL:
 * `etcd://[user[:password]@]host:port[,host:port…][/key/prefix][?passwordFile=&caFile=&certFile=&keyFile=]`,
 * and `etcds://` for TLS.
 */
import { readFile } from "node:fs/promises";
import { AppError } from "../errors.ts";

/** A parsed URL. Passwords stay in here: never print it. */
export interface EtcdPlace {
  /** `host:port` of each member, in the URL's order. */
  readonly endpoints: readonly string[];
  readonly isTls: boolean;
  /** What stands before every key: empty, or with a leading and without a trailing slash. */
  readonly prefix: string;
  readonly user?: string;
  readonly password?: string;
  readonly files: Readonly<Partial<Record<FileOption, string>>>;
}

/** What an etcd connection is made with; read anew for each one. */
export interface EtcdCredentials {
  readonly password: string | undefined;
  /** Certificates of the authorities that may have signed the server's (PEM); undefined: those that Node.js trusts. */
  readonly ca: Buffer | undefined;
  readonly cert: Buffer | undefined;
  readonly key: Buffer | undefined;
}

const FILE_OPTIONS = ["passwordFile", "caFile", "certFile", "keyFile"] as const;
type FileOption = (typeof FILE_OPTIONS)[number];

const DEFAULT_PORT = 2379;
const FORM = "etcd://[user[:password]@]host:port[,host:port…][/key/prefix][?option=value]";

/** Takes a URL apart. Fails with `configuration_invalid` and without repeating what may be a password. */
export function parseEtcdUrl(url: string): EtcdPlace {
  const parts = /^(etcds?):\/\/(?:([^@/?#]*)@)?([^/?#@]+)(\/[^?#]*)?(?:\?([^#]*))?$/.exec(url);
  if (parts === null)
    throw invalid(`it must have the form ${FORM}; in user and password write @ / ? # : as %40 and so on`);
  const [, scheme, login, hosts = "", path = "", query = ""] = parts;
  const files = parseOptions(query);
  const place: EtcdPlace = {
    endpoints: hosts.split(",").map(endpoint),
    isTls: scheme === "etcds",
    prefix: decode(path, "key prefix").replace(/\/+$/, ""),
    ...(login === undefined ? {} : parseLogin(login)),
    files,
  };
  requireConsistent(place);
  return place;
}

/** A URL for the same members and key prefix by another user, whose password and certificates lie in files. */
export function urlForUser(
  { isTls, endpoints, prefix }: EtcdPlace,
  login: { readonly user: string; readonly passwordFile: string; readonly caFile?: string },
): string {
  const { user, ...files } = login;
  const path = prefix.split("/").map(encodeURIComponent).join("/");
  const query = new URLSearchParams(files).toString();
  return `${isTls ? "etcds" : "etcd"}://${encodeURIComponent(user)}@${endpoints.join(",")}${path}?${query}`;
}

/** The same place for those who reach it by other addresses, `host:port[,host:port…]`. Fails with `configuration_invalid`. */
export function placeAt(place: EtcdPlace, addresses: string): EtcdPlace {
  return { ...place, endpoints: addresses.split(",").map(endpoint) };
}

/** Reads the files that a place names. Fails with `configuration_invalid`, naming option and file. */
export async function readCredentials(place: EtcdPlace): Promise<EtcdCredentials> {
  const { files, password } = place;
  const read = (option: FileOption): Promise<Buffer | undefined> => readOption(option, files[option]);
  const [fromFile, ca, cert, key] = await Promise.all([
    read("passwordFile"),
    read("caFile"),
    read("certFile"),
    read("keyFile"),
  ]);
  return { password: fromFile?.toString("utf8").replace(/\r?\n$/, "") ?? password, ca, cert, key };
}

/** How a place is called in messages: no user, no password, no files. */
export function describePlace({ endpoints }: EtcdPlace): string {
  return `etcd at ${endpoints.join(", ")}`;
}

function parseOptions(query: string): EtcdPlace["files"] {
  const files: Partial<Record<FileOption, string>> = {};
  for (const [name, value] of new URLSearchParams(query)) {
    const option = FILE_OPTIONS.find((known) => known === name);
    if (option === undefined) throw invalid(`it has an unknown option "${name}"; known are ${FILE_OPTIONS.join(", ")}`);
    if (files[option] !== undefined) throw invalid(`it names ${option} twice`);
    if (value === "") throw invalid(`its option ${option} is empty; name a file`);
    files[option] = value;
  }
  return files;
}

function parseLogin(login: string): { readonly user: string; readonly password?: string } {
  const colon = login.indexOf(":");
  const user = decode(colon < 0 ? login : login.slice(0, colon), "user");
  if (user === "") throw invalid("it has an empty user name");
  return colon < 0 ? { user } : { user, password: decode(login.slice(colon + 1), "password") };
}

function endpoint(text: string): string {
  const [, host, port = String(DEFAULT_PORT)] =
    /^(\[[0-9a-fA-F:.]+\]|[^:[\]]+)(?::(\d{1,5}))?$/.exec(text.trim()) ?? [];
  if (host !== undefined && Number(port) >= 1 && Number(port) <= 65_535) return `${host}:${port}`;
  throw invalid(`its hosts must be host:port, separated by commas; "${text}" is not`);
}

function requireConsistent({ isTls, user, password, files }: EtcdPlace): void {
  const { passwordFile, certFile, keyFile } = files;
  const tlsOption = (["caFile", "certFile", "keyFile"] as const).find((option) => files[option] !== undefined);
  if (!isTls && tlsOption !== undefined) throw invalid(`${tlsOption} is for TLS: write etcds:// instead of etcd://`);
  if ((certFile === undefined) !== (keyFile === undefined))
    throw invalid("certFile and keyFile come together: name both");
  if (password !== undefined && passwordFile !== undefined) {
    throw invalid("it has a password and a passwordFile: keep one, better the file");
  }
  if (passwordFile !== undefined && user === undefined) throw invalid("its passwordFile needs a user: write user@host");
  if (user !== undefined && password === undefined && passwordFile === undefined) {
    throw invalid(`its user "${user}" has no password: name a passwordFile`);
  }
}

async function readOption(option: FileOption, path: string | undefined): Promise<Buffer | undefined> {
  if (path === undefined) return undefined;
  try {
    return await readFile(path);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? "unknown error";
    throw new AppError("configuration_invalid", `The knowledge store's ${option} ${path} cannot be read: ${code}.`, {
      cause: error,
      place: { file: path },
    });
  }
}

function decode(text: string, what: string): string {
  try {
    return decodeURIComponent(text);
  } catch (error) {
    if (error instanceof URIError) throw invalid(`its ${what} is not percent-encoded UTF-8`);
    throw error;
  }
}

function invalid(fault: string): AppError {
  return new AppError("configuration_invalid", `The knowledge store's URL is wrong: ${fault}.`);
}
