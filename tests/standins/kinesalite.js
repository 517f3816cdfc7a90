// Runs kinesalite on a free loopback port, which it prints; ends with its standard input.
// Run in the folder that holds node_modules.
'use strict'
const { createRequire } = require('module')
const kinesalite = createRequire(process.cwd() + '/')('kinesalite')

const quick = { createStreamMs: 20, deleteStreamMs: 20, updateStreamMs: 20, shardLimit: 1000 }
const server = kinesalite(quick)
server.listen(0, '127.0.0.1', () => process.stdout.write(`listening ${server.address().port}\n`))
process.stdin.resume().on('end', () => process.exit(0))
