// Runs kinesalite on a free loopback port, which it prints; ends with its standard input.
// Run in the folder that holds node_modules. A file named as its argument holds milliseconds by which its clock is ahead.
'use strict'
const fs = require('fs')
const { createRequire } = require('module')
const kinesalite = createRequire(process.cwd() + '/')('kinesalite')

const ahead = process.argv[2]
if (ahead) {
  const now = Date.now
  Date.now = () => now() + Number(fs.readFileSync(ahead, 'utf8'))
}
// It throws when a client is killed in the middle of a request; a service lives on.
process.on('uncaughtException', (error) => {
  if (error.code === 'ECONNRESET') return
  console.error(error)
  process.exit(1)
})
const quick = { createStreamMs: 20, deleteStreamMs: 20, updateStreamMs: 20, shardLimit: 1000 }
const server = kinesalite(quick)
server.listen(0, '127.0.0.1', () => process.stdout.write(`listening ${server.address().port}\n`))
process.stdin.resume().on('end', () => process.exit(0))
