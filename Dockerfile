# One image for every program of the system; what a container runs is its command:
#
#   dynamos …                                                          the command line (`dynamos --help` unless told otherwise)
#   node /app/dist/bundle/orchestrator/main.js                         likewise orchestrator/policy-enforcer
#   node --max-semi-space-size=8 /app/dist/bundle/agent/main.js
#   node /app/dist/bundle/sidecar/messaging-main.js                    the sidecar of those above
#   node --max-semi-space-size=2 --heap-growing-percent=25 /app/dist/bundle/sidecar/main.js                     a chain's sidecar
#   node --max-semi-space-size=4 --heap-growing-percent=25 /app/dist/bundle/microservices/sql-query/main.js     likewise its siblings,
#   node --max-semi-space-size=1 --heap-growing-percent=10 /app/dist/bundle/microservices/sql-aggregate/main.js but this one
#
# With other flags V8 refuses what was compiled ahead of a program, which then starts later (docs/decisions/0025).
#
# It needs no rights, no user in /etc/passwd, and no file system that can be written but /tmp and what is mounted.
#
# To build the same image again and again, pin the base by its digest:
#   --build-arg NODE_IMAGE=docker.io/library/node:20-bookworm-slim@sha256:…
# (`docker buildx imagetools inspect docker.io/library/node:20-bookworm-slim` prints it). Node 20.19 or later, or 22.
ARG NODE_IMAGE=docker.io/library/node:20-bookworm-slim

# What packages follow from: package.json without our scripts, whose change is no change of packages.
FROM ${NODE_IMAGE} AS manifest
WORKDIR /app
COPY package.json ./
RUN node -e 'const { scripts, ...rest } = JSON.parse(fs.readFileSync("package.json")); fs.writeFileSync("package.json", JSON.stringify(rest))' \
  && touch -d @0 package.json

# Packages come before sources, so that a change of sources compiles no native code.
FROM ${NODE_IMAGE} AS packages
WORKDIR /app
RUN apt-get update -qq \
  && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3 make g++ \
  && rm -rf /var/lib/apt/lists/*
COPY --from=manifest /app/package.json ./
COPY package-lock.json .npmrc ./
# better-sqlite3 is compiled with the headers of the base image: nothing is fetched but from the package registry.
RUN npm_config_build_from_source=true npm_config_nodedir=/usr/local npm ci --include=dev && npm cache clean --force

# What runs needs of them: no development packages, and of the others no types, maps and texts, no second copy of
# OpenTelemetry for bundlers, no sources and intermediate files of native code. Licences stay.
FROM packages AS production
RUN npm prune --omit=dev --ignore-scripts \
  && cd node_modules \
  && rm -rf .bin .package-lock.json .cache @types \
    better-sqlite3/deps better-sqlite3/src better-sqlite3/binding.gyp \
  && find dejavu-fonts-ttf/ttf -type f ! -name 'DejaVuSans.ttf' ! -name 'DejaVuSans-Bold.ttf' -delete \
  && find better-sqlite3/build -type f ! -path '*/Release/better_sqlite3.node' -delete \
  && find . -path '*/@opentelemetry/*/build/*' -prune -type d \( -name esm -o -name esnext \) -exec rm -rf {} + \
  && find . -type f \( -name '*.map' -o -name '*.d.ts' -o -name '*.d.mts' -o -name '*.d.cts' -o -name '*.md' -o -name '*.markdown' \
    -o -name '*.tsbuildinfo' \) ! -iname 'LICEN[CS]E*' -delete \
  && find . -depth -type d -empty -delete

FROM packages AS build
COPY . .
# Without maps: programs of a chain start faster without them, and names of functions stay in stack traces.
RUN npm run --silent build \
  && rm -rf dist/.tsbuildinfo dist/test dist/bench \
  && find dist -name '*.map' -delete \
  && find dist -depth -type d -empty -delete \
  && printf '#!/bin/sh\nexec node /app/dist/cli/main.js "$@"\n' >/usr/local/bin/dynamos && chmod 0755 /usr/local/bin/dynamos

# The base without what only builds use: package managers of Node.js, headers, caches, texts (copyrights stay).
FROM ${NODE_IMAGE} AS runtime
RUN rm -rf /usr/local/include /usr/local/lib/node_modules /usr/local/bin/npm /usr/local/bin/npx /usr/local/bin/corepack \
    /usr/local/bin/yarn /usr/local/bin/yarnpkg /opt/yarn-* /root/.npm /tmp/* \
    /var/cache/apt /var/cache/debconf /var/lib/apt/lists /var/log/* /usr/share/locale /usr/share/man /usr/share/info /usr/share/lintian \
  && mkdir -p /var/cache/apt/archives/partial /var/lib/apt/lists/partial \
  && find /usr/share/doc -type f ! -name copyright -delete && find /usr/share/doc -depth -type d -empty -delete

# As one layer, since a layer that deletes makes nothing smaller.
FROM scratch
COPY --from=runtime / /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin NODE_ENV=production HOME=/tmp
WORKDIR /app
# In the order of how seldom they change.
COPY --from=production /app/node_modules ./node_modules
COPY --from=build /usr/local/bin/dynamos /usr/local/bin/dynamos
COPY package.json ./
COPY proto ./proto
COPY configuration ./configuration
COPY --from=build /app/dist ./dist
# A number, so that a cluster can see that it is not root.
USER 10001:10001
CMD ["dynamos", "--help"]
