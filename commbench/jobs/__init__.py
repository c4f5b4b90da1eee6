"""The story of each command. Only here are spec, measuring, reading and store known together.

request   what was asked for, and all that can be refused before a rank is started
inside    a sweep inside a launch: one rank's part, or all ranks of a simulated world
outside   a sweep that starts its ranks itself, once for each launch
runs      runs wherever they are: run folders, folders of them, files of other tools
imports   files of other tools into run folders
"""
