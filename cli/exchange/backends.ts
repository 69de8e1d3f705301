/** Store and bus of an exchange, before its parts start: whether they answer. */
import { openMessageBus } from "../../lib/bus/open.ts";
import { AppError, toAppError } from "../../lib/errors.ts";
import { openKnowledgeStore, parseKnowledgeStoreUrl } from "../../lib/knowledge/open.ts";

/**
 * Makes sure that servers answer, so that one that does not is named once and at once, instead of by every part that cannot
 * start. Embedded ones need nothing.
 *
 * @throws AppError `configuration_invalid` when a URL names nothing we have, `unavailable` when a server does not answer.
 */
export async function requireBackends(storeUrl: string, busUrl: string): Promise<void> {
  if (parseKnowledgeStoreUrl(storeUrl).kind !== "sqlite") {
    await requireAnswer("The knowledge store", storeUrl, "--store (DYNAMOS_STORE)", () => openKnowledgeStore(storeUrl));
  }
  if (!busUrl.startsWith("embedded:")) {
    await requireAnswer("The message bus", busUrl, "--bus (DYNAMOS_BUS)", () => openMessageBus(busUrl));
  }
}

/** A URL as it may be shown: without user, password and parameters. */
export function shownUrl(url: string): string {
  const [, scheme, rest] = /^([a-z][a-z0-9+.-]*:\/\/)([^?#]*)/i.exec(url) ?? [];
  if (scheme === undefined || rest === undefined) return url;
  return scheme + rest.slice(rest.lastIndexOf("@") + 1);
}

/**
 * A place in an etcd that is nobody else's: below a key prefix. Undefined for other stores, which a URL names whole. Its keys are
 * to be removed in the end.
 */
export function storeOfItsOwn(
  storeUrl: string | undefined,
  name: string,
): { readonly url: string; remove(): Promise<void> } | undefined {
  if (storeUrl === undefined || parseKnowledgeStoreUrl(storeUrl).kind !== "etcd") return undefined;
  const [place = "", query] = storeUrl.split("?");
  const url = [`${place.replace(/\/+$/, "")}/${name}`, ...(query === undefined ? [] : [query])].join("?");
  return { url, remove: () => removeAllKeys(url) };
}

async function removeAllKeys(url: string): Promise<void> {
  const store = await openKnowledgeStore(url);
  try {
    const { documents } = await store.list("/");
    await Promise.all(documents.map(({ key }) => store.delete(key)));
  } finally {
    await store.close();
  }
}

async function requireAnswer(
  what: string,
  url: string,
  setting: string,
  open: () => Promise<{ ping(): Promise<void>; close(): Promise<void> }>,
): Promise<void> {
  try {
    const opened = await open();
    try {
      await opened.ping();
    } finally {
      await opened.close();
    }
  } catch (thrown) {
    const known = toAppError(thrown);
    if (known.code === "configuration_invalid") throw known;
    throw new AppError(
      known.code,
      `${what} at ${shownUrl(url)} does not answer: ${known.message} Start it or mend ${setting}; without that setting an embedded one is used.`,
      { cause: known },
    );
  }
}
